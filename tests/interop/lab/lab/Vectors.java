package lab;

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.util.ArrayList;
import java.util.Date;
import java.util.HashSet;
import java.util.HexFormat;
import java.util.List;
import java.util.Set;
import java.util.UUID;
import java.util.regex.Pattern;
import org.modeshape.schematic.document.Binary;
import org.modeshape.schematic.document.Bson;
import org.modeshape.schematic.document.Code;
import org.modeshape.schematic.document.CodeWithScope;
import org.modeshape.schematic.document.Document;
import org.modeshape.schematic.document.Json;
import org.modeshape.schematic.document.MaxKey;
import org.modeshape.schematic.document.MinKey;
import org.modeshape.schematic.document.Null;
import org.modeshape.schematic.document.ObjectId;
import org.modeshape.schematic.document.Symbol;
import org.modeshape.schematic.document.Timestamp;
import org.modeshape.schematic.internal.document.BasicArray;
import org.modeshape.schematic.internal.document.BasicDocument;

/**
 * Documents as ModeShape's own code writes them, for tests of code that must do the same. A line has an id, the BSON in
 * hex as in the table, the line of a backup without its newline, and the BSON in hex that a restore of that line writes;
 * the last is `-` where ModeShape cannot read its own line.
 */
final class Vectors {
    private final PrintStream out;

    private Vectors(PrintStream out) {
        this.out = out;
    }

    /** Made up documents: each type of value, and the odd cases of each. */
    static void print(PrintStream out) throws Exception {
        Vectors vectors = new Vectors(out);
        vectors.doubles();
        vectors.integers();
        vectors.text();
        vectors.natives();
        vectors.nested();
    }

    /** Rows of a real table, of which each shows something that the ones before did not. */
    static void rows(String url, PrintStream out) throws Exception {
        Set<String> seen = new HashSet<>();
        try (Connection connection = DriverManager.getConnection(url, System.getProperty("lab.user", "fedora"), System.getProperty("lab.password", ""));
                ResultSet rows = connection.createStatement().executeQuery("SELECT ID, CONTENT FROM MODESHAPE_REPOSITORY ORDER BY ID")) {
            while (rows.next()) {
                byte[] content = rows.getBytes(2);
                if (content.length > 6_000) continue;
                Set<String> shown = new HashSet<>();
                features("", Bson.read(new ByteArrayInputStream(content)), shown);
                shown.removeAll(seen);
                if (shown.isEmpty()) continue;
                seen.addAll(shown);
                new Vectors(out).line(rows.getString(1), content);
            }
        }
    }

    /** What there is to see in a value: its type, the field it stands in where that is ModeShape's own, odd letters. */
    private static void features(String field, Object value, Set<String> into) {
        if (value instanceof List<?> list) {
            into.add(field + " list " + (list.size() < 2 ? list.size() : "n"));
            for (Object element : list) features(field + "[]", element, into);
        } else if (value instanceof Document document) {
            if (document.size() == 0) into.add(field + " empty");
            for (Document.Field each : document.fields()) {
                String name = each.getName();
                boolean ours = name.startsWith("$") || name.equals("properties") || name.equals("children") || name.equals("parent") || name.equals("referrers");
                features(ours ? name : "", each.getValue(), into);
            }
        } else {
            into.add(field + " " + (value == null ? "null" : value.getClass().getSimpleName()));
            if (!(value instanceof String text)) return;
            if (text.isEmpty()) into.add("empty text");
            if (text.indexOf('\'') >= 0) into.add("apostrophe");
            if (text.chars().anyMatch(c -> c < 0x20)) into.add("control");
            if (text.chars().anyMatch(c -> c > 0x7f)) into.add("not ASCII");
        }
    }

    private void line(String id, byte[] bson) throws Exception {
        String json = Json.write(Bson.read(new ByteArrayInputStream(bson)));
        if (json.indexOf('\t') >= 0 || json.indexOf('\n') >= 0) throw new IllegalStateException("a line with a tab: " + json);
        ByteArrayOutputStream line = new ByteArrayOutputStream();
        Json.write(Bson.read(new ByteArrayInputStream(bson)), line);
        String restored;
        try {
            Document read = Json.readMultiple(new ByteArrayInputStream(line.toByteArray()), false).nextDocument();
            restored = HexFormat.of().formatHex(Bson.write(read));
        } catch (Exception e) {
            restored = "-";
        }
        out.println(id + "\t" + HexFormat.of().formatHex(bson) + "\t" + new String(line.toByteArray(), StandardCharsets.UTF_8) + "\t" + restored);
    }

    private void one(String id, Object value) throws Exception {
        line(id, Bson.write(new BasicDocument("v", value, "after", 1)));
    }

    private void doubles() throws Exception {
        double[] doubles = {0.0, -0.0, 1.0, -1.5, 0.1, 1e-3, 9.999e-4, 9999999.0, 1e7, 12345678.9, 1.23e-5, 2e23, 8.41e21, 1e21, 1e22, 1e23, 1e300, 5e-324,
            Double.MIN_NORMAL, Double.MAX_VALUE, -Double.MAX_VALUE, 9007199254740993.0, 4.35, 2.2250738585072011e-308, 123456789.125, 100.0, 2e-3,
            9.5E-320, Double.NaN, Double.POSITIVE_INFINITY, Double.NEGATIVE_INFINITY};
        for (double each : doubles) one("double " + Long.toHexString(Double.doubleToRawLongBits(each)), each);
        one("float", 1.1f);
    }

    private void integers() throws Exception {
        long[] longs = {0, 1, -1, Integer.MAX_VALUE, Integer.MIN_VALUE, Integer.MAX_VALUE + 1L, Integer.MIN_VALUE - 1L, Long.MAX_VALUE, Long.MIN_VALUE};
        for (long each : longs) one("long " + each, each);
        one("int 7", 7);
        one("int -2147483648", Integer.MIN_VALUE);
        one("true", true);
        one("false", false);
    }

    private void text() throws Exception {
        StringBuilder controls = new StringBuilder();
        for (char c = 1; c < 0x20; c++) controls.append(c);
        String[] texts = {"", " ", "O'Reilly", "\"quoted\"", "back\\slash", "a/b", controls.toString(), "\u007f\u0080\u0085\u00a0\u2028\u2029\ufeff", "zero\u0000inside",
            "\u65e5\u672c\u8a9e \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \ud83d\ude00", "null", "true", "12", "NaN", "2014-11-27T12:34:56Z", "2014-11-27T12:34:56.789Z",
            "/Date(1417091696789)/", "{ \"$name\" : \"x\" }", "\\u0041", "\\'", "\ufffe", "before\uffffafter", "a // b /* c */", "\\", "'", "x\\\"y"};
        for (int i = 0; i < texts.length; i++) one("text " + i, texts[i]);
        String[] names = {"", " ", "it's", "\u65e5\u672c", "$name", "$date", "a.b", "{uri}local", "a:b", "with , comma", "a\"quote", "a\\backslash", "line\nfeed", "1", "true", "//"};
        for (int i = 0; i < names.length; i++) {
            if (names[i].indexOf('\n') < 0) line("name " + i, Bson.write(new BasicDocument(names[i], "v", "after", 1)));
        }
    }

    private void natives() throws Exception {
        one("null", Null.getInstance());
        long[] moments = {0, 1, 999, 1417091696789L, 1417091696000L, -1, -1000, -62135596800000L, 253402300799999L, 253402300800000L, -62135596800001L};
        for (long each : moments) one("date " + each, new Date(each));
        for (byte type : new byte[] {0, 1, 2, 4, 5, (byte) 0x80}) {
            one("binary type " + type, new Binary(type, Opened.utf8("hello, world")));
            one("empty binary type " + type, new Binary(type, new byte[0]));
        }
        byte[] all = new byte[256];
        for (int i = 0; i < all.length; i++) all[i] = (byte) i;
        one("binary of all bytes", new Binary(all));
        one("uuid", UUID.fromString("00112233-4455-6677-8899-aabbccddeeff"));
        one("uuid high", UUID.fromString("ffeeddcc-bbaa-9988-7766-554433221100"));
        one("object id", new ObjectId(0x01020304, 0x050607, 0x0809, 0x0a0b0c));
        one("timestamp", new Timestamp(1417091696, 7));
        one("regex", Pattern.compile("a'b\"c\\d", Pattern.CASE_INSENSITIVE | Pattern.MULTILINE));
        one("regex of all flags", Pattern.compile("x", Pattern.CANON_EQ | Pattern.UNIX_LINES | Pattern.CASE_INSENSITIVE | Pattern.MULTILINE | Pattern.DOTALL
            | Pattern.LITERAL | Pattern.UNICODE_CASE | Pattern.COMMENTS));
        one("symbol", new Symbol("it's"));
        one("code", new Code("return 'x';"));
        one("code with scope", new CodeWithScope("return 'x';", new BasicDocument("a", 1, "b", "it's")));
        one("min key", MinKey.getInstance());
        one("max key", MaxKey.getInstance());
        for (String field : new String[] {"$name", "$uri", "$dec", "$uuid", "$oid", "$base64", "$code", "$regex", "$date", "$ts", "$type"}) {
            one("document of " + field, new BasicDocument(field, "it's"));
        }
        one("document of a whole date", new BasicDocument("$date", "2014-11-27T12:34:56Z"));
        one("document of a date with milliseconds", new BasicDocument("$date", "2014-11-27T12:34:56.789Z"));
        one("document of a date with zone", new BasicDocument("$date", "2014-11-27T12:34:56.789+05:30"));
        one("document of a date with zone and no milliseconds", new BasicDocument("$date", "2014-11-27T12:34:56+05:30"));
        one("document of a short date", new BasicDocument("$date", "2014-11-27"));
        one("document of a uuid", new BasicDocument("$uuid", "00112233-4455-6677-8899-aabbccddeeff"));
        one("document of base64", new BasicDocument("$type", 0, "$base64", "aGVsbG8="));
        one("document of a digest", new BasicDocument("$sha1", "6aa9bf7df2242ef867558584c02160023a96f2f9", "$len", 5000L));
        one("document of a reference", new BasicDocument("$sref", "87a0a8c7505d64x", "$foreign", false));
    }

    private void nested() throws Exception {
        one("empty document", new BasicDocument());
        one("empty list", new BasicArray());
        line("nothing", Bson.write(new BasicDocument()));
        List<Object> several = new ArrayList<>(List.of(1, 2L, "it's", true, 1.5));
        several.add(Null.getInstance());
        several.add(new BasicArray());
        several.add(new BasicDocument());
        several.add(new BasicDocument("$name", "nt:file"));
        several.add(new Date(1417091696789L));
        several.add(Double.NaN);
        one("list of several", array(several));
        one("list of null", array(java.util.Arrays.asList(Null.getInstance(), Null.getInstance())));
        one("list of one list", array(List.of(array(List.of("x")))));
        Object deep = "bottom";
        for (int i = 0; i < 60; i++) deep = i % 2 == 0 ? new BasicDocument("d", deep) : array(List.of(deep));
        one("deep", deep);
        List<Object> many = new ArrayList<>();
        for (int i = 0; i < 120; i++) many.add(i);
        one("list of 120", array(many));
    }

    private static BasicArray array(List<?> values) {
        BasicArray array = new BasicArray(values.size());
        int index = 0;
        for (Object value : values) array.put(Integer.toString(index++), value);
        return array;
    }
}
