//! The document of the interface, held against every answer that the other tests get, and against the router.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use holdfast::service::http::routes;
use serde_json::{Value, json};

use super::service_lab::{Reply, request, service};

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let mut document = serde_json::from_str(include_str!("../../src/service/http/openapi.json")).unwrap();
    close(&mut document);
    document
});

/// A client must take fields that it does not know; an answer of today has none that are not in the document.
fn close(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.values_mut().for_each(close);
            if object.get("type") == Some(&json!("object")) && object.contains_key("properties") {
                object.insert("additionalProperties".to_owned(), json!(false));
            }
        }
        Value::Array(list) => list.iter_mut().for_each(close),
        _ => {}
    }
}

/// The path in the document that this path is one of.
fn path_of(path: &str) -> Option<&'static str> {
    let path = path.split('?').next().unwrap();
    let segments: Vec<&str> = path.split('/').collect();
    let fits = |pattern: &&str| {
        let pattern: Vec<&str> = pattern.split('/').collect();
        let fits = |(name, segment): (&&str, &&str)| {
            if name.starts_with('{') { !segment.is_empty() } else { name == segment }
        };
        pattern.len() == segments.len() && pattern.iter().zip(&segments).all(fits)
    };
    routes().map(|(_, path)| path).find(fits)
}

fn resolved(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str() {
        Some(pointer) => DOCUMENT.pointer(&pointer[1..]).unwrap_or_else(|| panic!("there is no {pointer}")),
        None => value,
    }
}

/// Whether an answer is one that the document tells of.
pub(crate) fn hold(method: &str, path: &str, reply: &Reply) {
    let about = format!("{method} {path}: {} {}", reply.status, reply.text());
    let method = if method == "HEAD" { "get".to_owned() } else { method.to_lowercase() };
    let operation = path_of(path).map_or(&Value::Null, |path| &DOCUMENT["paths"][path][&method]);
    if operation.is_null() {
        assert!(reply.status == 404 || reply.status == 405 || reply.status == 400, "{about}");
        assert!(!reply.reason().is_empty(), "{about}");
        return;
    }
    let answers = &operation["responses"];
    let named = &answers[reply.status.to_string()];
    assert!(!named.is_null() || [405, 408, 413, 414, 431, 500].contains(&reply.status), "not told of: {about}");
    let told = resolved(if named.is_null() { &answers["default"] } else { named });
    for (name, header) in told["headers"].as_object().into_iter().flatten() {
        let sent = reply.header(&name.to_lowercase());
        assert!(sent.is_some() || header["required"] != true, "no header {name}: {about}");
    }
    let Some((kind, content)) = told["content"].as_object().and_then(|content| content.iter().next()) else {
        assert!(reply.body.is_empty(), "a body: {about}");
        return;
    };
    assert_eq!(reply.header("content-type"), Some(kind.as_str()), "{about}");
    let body = if kind == "application/json" { reply.json() } else { Value::String(reply.text()) };
    let mut schema = content["schema"].clone();
    schema["components"] = DOCUMENT["components"].clone();
    let validator = jsonschema::draft202012::options().should_validate_formats(true).build(&schema).unwrap();
    let wrong: Vec<String> =
        validator.iter_errors(&body).map(|error| format!("{}: {error}", error.instance_path())).collect();
    assert!(wrong.is_empty(), "{about}\n{wrong:#?}");
}

#[test]
fn every_call_stands_in_the_document_and_every_one_in_it_is_a_call() {
    let known: BTreeSet<(String, String)> =
        routes().map(|(method, path)| (method.to_lowercase(), path.to_owned())).collect();
    let mut told = BTreeSet::new();
    for (path, item) in DOCUMENT["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            told.insert((method.clone(), path.clone()));
        }
    }
    assert_eq!(known, told);
}

#[test]
fn every_schema_of_the_document_is_one_and_every_reference_leads_somewhere() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("$ref").and_then(Value::as_str).map(str::to_owned));
                object.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    references(&DOCUMENT, &mut found);
    for pointer in &found {
        assert!(DOCUMENT.pointer(&pointer[1..]).is_some(), "{pointer}");
    }
    for (name, schema) in DOCUMENT["components"]["schemas"].as_object().unwrap() {
        jsonschema::meta::validate(schema).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(found.contains(&format!("#/components/schemas/{name}")), "{name} is used nowhere");
    }
    let ids: Vec<&Value> = DOCUMENT["paths"]
        .as_object()
        .unwrap()
        .values()
        .flat_map(|item| item.as_object().unwrap().values())
        .filter_map(|operation| operation.get("operationId"))
        .collect();
    assert_eq!(ids.iter().map(ToString::to_string).collect::<BTreeSet<_>>().len(), ids.len());
}

#[test]
#[should_panic(expected = "('trace' was unexpected)")]
fn an_answer_with_a_field_that_is_not_in_the_document_is_noticed() {
    let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    hold("GET", "/nowhere", &Reply { status: 404, headers: headers.clone(), body: br#"{"reason":"x"}"#.to_vec() });
    hold("GET", "/runs/7", &Reply { status: 404, headers, body: br#"{"reason":"x","trace":"y"}"#.to_vec() });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_served_as_it_is() {
    let lab = service().await;
    let reply = lab.get("/openapi.json").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.text(), include_str!("../../src/service/http/openapi.json"));
    assert!(lab.get("/openapi.json?pretty").await.reason().contains("takes nothing"));
    lab.end().await;
}

/// The examples in the documentation are requests as well: what a body may hold is what is taken.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_the_document_allows_are_taken_and_others_are_not() {
    let lab = service().await;
    for (path, body) in [
        ("/jobs/copy.binaries/run", json!({})),
        ("/jobs/copy.binaries/run", json!({"full": true})),
        ("/jobs/copy.binaries/run", json!({"full": 1})),
        ("/jobs/copy.binaries/run", json!({"full": true, "more": 1})),
        ("/jobs/copy.binaries/run", json!([])),
        ("/restore/plan", json!({"from": "20260101T000000Z-1"})),
        ("/restore/plan", json!({"from": "20260101T000000Z-1", "to": "/srv/x", "only": [], "destination": null})),
        ("/restore/plan", json!({"from": 7})),
        ("/restore/plan", json!({"to": "/srv/x"})),
        ("/restore/plan", json!({"from": "20260101T000000Z-1", "From": 1})),
        ("/verify", json!({"names": ["20260101T000000Z-1"], "quick": true})),
        ("/verify", json!({"names": []})),
        ("/verify", json!({"names": "20260101T000000Z-1"})),
        ("/verify", json!(null)),
    ] {
        let schema = &DOCUMENT["paths"][path_of(path).unwrap()]["post"]["requestBody"]["content"]["application/json"];
        let mut schema = schema["schema"].clone();
        schema["components"] = DOCUMENT["components"].clone();
        let allowed = jsonschema::draft202012::options().build(&schema).unwrap().is_valid(&body);
        let reply = lab.order("POST", path, &body.to_string()).await;
        assert_eq!(reply.status < 300, allowed, "{path} {body}: {} {}", reply.status, reply.text());
        assert!(allowed || reply.status == 400, "{path} {body}: {}", reply.text());
    }
    let reply = super::service_lab::ask(lab.control().await, &request("POST", "/verify", &[], "")).await;
    assert_eq!(reply.status, 400);
    lab.end().await;
}
