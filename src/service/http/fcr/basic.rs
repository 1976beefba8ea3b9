//! Address and password as basic authentication has them (RFC 7617).

use base64_simd::STANDARD;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;

/// The address and the password in `Authorization: Basic`, if there are any.
pub(super) fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, encoded) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode_to_vec(encoded.trim()).ok()?).ok()?;
    // A password may have colons in it, an address has none.
    text.split_once(':').map(|(email, password)| (email.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn what_is_no_basic_authentication_has_no_credentials() {
        let of = |value: &str| {
            let value = HeaderValue::from_str(value).unwrap();
            credentials(&HeaderMap::from_iter([(AUTHORIZATION, value)]))
        };
        let basic = |text: &str| format!("Basic {}", STANDARD.encode_to_string(text));
        assert_eq!(of(&basic("ada@example.org:a:b")), Some(("ada@example.org".to_owned(), "a:b".to_owned())));
        assert_eq!(
            of(&basic("ada:").to_lowercase().replace("ywrhog==", "YWRhOg==")),
            Some(("ada".into(), String::new()))
        );
        for value in ["Basic", "Basic ", "Basic !", "Bearer YWRhOmI=", &basic("no colon"), "Basic gIA6gA=="] {
            assert_eq!(of(value), None, "{value}");
        }
        assert_eq!(credentials(&HeaderMap::new()), None);
    }
}
