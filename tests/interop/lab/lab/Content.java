package lab;

import java.io.ByteArrayInputStream;
import java.math.BigDecimal;
import java.util.Calendar;
import java.util.GregorianCalendar;
import java.util.Random;
import java.util.TimeZone;
import javax.jcr.Binary;
import javax.jcr.Node;
import javax.jcr.PropertyType;
import javax.jcr.Session;
import javax.jcr.Value;
import javax.jcr.ValueFactory;
import javax.jcr.version.VersionManager;
import org.modeshape.jcr.api.nodetype.NodeTypeManager;

/** Fills a repository with one of everything that the documents and the binaries can hold; one seed gives one content. */
final class Content {
    private final Session session;
    private final ValueFactory values;
    private final Random random;

    Content(Session session, long seed) throws Exception {
        this.session = session;
        this.values = session.getValueFactory();
        this.random = new Random(seed);
    }

    /** What ModeShape itself brings back from its own backup. */
    void ordinary() throws Exception {
        types();
        Node root = session.getRootNode().addNode("content", "nt:unstructured");
        text(root.addNode("text", "nt:unstructured"));
        longText(root.addNode("longText", "nt:unstructured"));
        numbers(root.addNode("numbers", "nt:unstructured"));
        dates(root.addNode("dates", "nt:unstructured"));
        names(root.addNode("names", "nt:unstructured"));
        binaries(root.addNode("binaries", "nt:unstructured"));
        lists(root.addNode("lists", "nt:unstructured"));
        session.save();
        references(root.addNode("references", "nt:unstructured"));
        siblings(root.addNode("siblings", "nt:unstructured"));
        session.save();
        children(root);
        versions(root);
        shared(root);
        workspaces();
        deep(root);
        session.save();
    }

    /** Values that ModeShape's own backup changes or loses; its restore still runs to the end. */
    void odd() throws Exception {
        Node odd = session.getRootNode().addNode("odd", "nt:unstructured");
        odd.setProperty("nan", Double.NaN);
        odd.setProperty("infinity", Double.POSITIVE_INFINITY);
        odd.setProperty("minusInfinity", Double.NEGATIVE_INFINITY);
        odd.setProperty("manyDoubles", new Value[] {
            values.createValue(Double.NaN), values.createValue(1.5), values.createValue(Double.NEGATIVE_INFINITY)});
        odd.setProperty("cutAtFFFF", "before\uffffafter");
        odd.setProperty("fffe", "before\ufffeafter");
        odd.setProperty("zero", "before\u0000after");
        session.save();
    }

    /** A name that makes ModeShape's own backup unreadable for ModeShape from there on. */
    void unreadable() throws Exception {
        Node node = session.getRootNode().addNode("unreadable", "nt:unstructured");
        node.setProperty("a\"quote", "x");
        node.setProperty("a\\backslash", "x");
        session.save();
    }

    /** Nodes alike, of about 1 KiB; a tenth has a binary of its own. For what takes its time. */
    void many(int count) throws Exception {
        types();
        Node top = session.getRootNode().addNode("many", "nt:unstructured");
        Node folder = null;
        for (int number = 0; number < count; number++) {
            if (number % 100 == 0) {
                session.save();
                folder = top.addNode("folder" + number / 100, "nt:unstructured");
            }
            Node node = folder.addNode("node" + number, "nt:unstructured");
            node.addMixin("lab:thing");
            node.addMixin("mix:referenceable");
            node.setProperty("lab:title", new String[] {"title " + random.nextLong(), "it's " + random.nextLong()});
            node.setProperty("lab:created", date("GMT+01:00", 2001, number % 12, 1 + number % 28, number % 24, 0, 0, 0));
            node.setProperty("number", random.nextLong());
            node.setProperty("text", Long.toHexString(random.nextLong()).repeat(20));
            if (number % 10 == 0) {
                byte[] content = new byte[4097 + random.nextInt(16 << 10)];
                random.nextBytes(content);
                node.setProperty("data", values.createBinary(new ByteArrayInputStream(content)));
            }
        }
        session.save();
    }

    private void types() throws Exception {
        session.getWorkspace().getNamespaceRegistry().registerNamespace("lab", "http://example.org/lab#");
        session.getWorkspace().getNamespaceRegistry().registerNamespace("odd", "http://example.org/o'dd/\u00fc?a=b&c=d#");
        String cnd = """
            <lab='http://example.org/lab#'>
            [lab:thing] mixin
            - lab:title (string) multiple
            - lab:created (date)
            [lab:folder] > nt:base orderable
            + * (nt:base) = nt:unstructured sns
            - * (undefined) multiple
            - * (undefined)
            [lab:bag] > nt:base
            + * (nt:base) = nt:unstructured
            """;
        NodeTypeManager manager = (NodeTypeManager) session.getWorkspace().getNodeTypeManager();
        manager.registerNodeTypes(new ByteArrayInputStream(Opened.utf8(cnd)), true);
    }

    private void text(Node node) throws Exception {
        node.addMixin("lab:thing");
        node.setProperty("apostrophe", "O'Reilly's \u201cquoted\u201d 'words' \"and\" \\backslashes\\ / slashes");
        node.setProperty("scripts", "\u65e5\u672c\u8a9e \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u05e2\u05d1\u05e8\u05d9\u05ea \u0440\u0443\u0441\u0441\u043a\u0438\u0439 \ud83d\ude00 e\u0301 \ufeff\u200f");
        node.setProperty("control", "tab\there\nnewline\r\nreturn\bbell\u0007\u0001\u001f\u007f\u0085\u2028end\f");
        node.setProperty("empty", "");
        node.setProperty("space", " ");
        node.setProperty("null", "null");
        node.setProperty("looksLikeDate", "2014-11-27T12:34:56.789Z");
        node.setProperty("looksLikeNumber", "0012.50");
        node.setProperty("looksLikeJson", "{ \"$date\" : \"2014-11-27T12:34:56Z\" } , [ 1 ] // not a comment");
        node.setProperty("lab:title", new String[] {"title 'one'", "\u65e5\u672c"});
        node.setProperty("lab:created", date("GMT+05:30", 2001, 2, 28, 23, 59, 59, 1));
        node.setProperty("o'dd {name} $sha1 \u00fc", "the name is odd");
        node.setProperty("odd:name", "the namespace is odd");
    }

    /** Text from 4096 letters on lies in the directory of binaries. */
    private void longText(Node node) throws Exception {
        node.setProperty("long", "O'\u00e9\u4e16\n".repeat(1200));
        node.setProperty("justBelow", "x".repeat(4095));
        node.setProperty("justAt", "y".repeat(4096));
        node.setProperty("several", new String[] {"short", "z'".repeat(3000)});
    }

    private void numbers(Node node) throws Exception {
        long[] longs = {0, 1, -1, Integer.MAX_VALUE, Integer.MIN_VALUE, Integer.MAX_VALUE + 1L, Integer.MIN_VALUE - 1L,
            Long.MAX_VALUE, Long.MIN_VALUE, 1L << 53, (1L << 53) + 1};
        for (int i = 0; i < longs.length; i++) node.setProperty("long" + i, longs[i]);
        double[] doubles = {0.0, -0.0, 1.0, -1.5, 0.1, 1e-3, 9.999e-4, 9999999.0, 1e7, 1.23e-5, 2e23, 8.41e21, 1e300, 5e-324, Double.MIN_NORMAL,
            Double.MAX_VALUE, -Double.MAX_VALUE, 9007199254740993.0, 4.35, 2.2250738585072011e-308, 123456789.125};
        for (int i = 0; i < doubles.length; i++) node.setProperty("double" + i, doubles[i]);
        for (int i = 0; i < 50; i++) node.setProperty("randomDouble" + i, finite());
        String[] decimals = {"0", "0.00", "-1.50", "123456789012345678901234567890.123456789", "1E+400", "1E-400"};
        for (int i = 0; i < decimals.length; i++) node.setProperty("decimal" + i, new BigDecimal(decimals[i]));
        node.setProperty("yes", true);
        node.setProperty("no", false);
    }

    private double finite() {
        for (;;) {
            double candidate = Double.longBitsToDouble(random.nextLong());
            if (!Double.isNaN(candidate) && !Double.isInfinite(candidate)) return candidate;
        }
    }

    private void dates(Node node) throws Exception {
        node.setProperty("utc", date("UTC", 2014, 10, 27, 12, 34, 56, 789));
        node.setProperty("wholeSecond", date("UTC", 2014, 10, 27, 12, 34, 56, 0));
        node.setProperty("east", date("GMT+13:45", 2017, 4, 1, 20, 15, 27, 696));
        node.setProperty("west", date("GMT-11:00", 1969, 11, 31, 23, 59, 59, 999));
        node.setProperty("old", date("UTC", 1066, 9, 14, 9, 0, 0, 0));
        node.setProperty("future", date("UTC", 9999, 11, 31, 23, 59, 59, 999));
    }

    private static Calendar date(String zone, int year, int month, int day, int hour, int minute, int second, int millis) {
        Calendar calendar = new GregorianCalendar(TimeZone.getTimeZone(zone));
        calendar.clear();
        calendar.set(year, month, day, hour, minute, second);
        calendar.set(Calendar.MILLISECOND, millis);
        return calendar;
    }

    private void names(Node node) throws Exception {
        node.setProperty("name", "nt:unstructured", PropertyType.NAME);
        node.setProperty("labName", "lab:title", PropertyType.NAME);
        node.setProperty("plainName", "just'a name", PropertyType.NAME);
        node.setProperty("absolutePath", "/content/text", PropertyType.PATH);
        node.setProperty("relativePath", "../text/lab:title[2]", PropertyType.PATH);
        node.setProperty("rootPath", "/", PropertyType.PATH);
        node.setProperty("selfPath", ".", PropertyType.PATH);
        node.setProperty("uri", "http://example.org/a%20b?c='d'&e=\u00fc#f", PropertyType.URI);
        node.setProperty("relativeUri", "../x", PropertyType.URI);
    }

    private void binaries(Node node) throws Exception {
        int[] sizes = {0, 1, 100, 4095, 4096, 4097, 65_536, 1_000_000, 5_000_000};
        for (int size : sizes) {
            Node file = node.addNode("file" + size, "nt:file");
            Node content = file.addNode("jcr:content", "nt:resource");
            content.setProperty("jcr:data", binary(bytes(size)));
            content.setProperty("jcr:mimeType", "application/octet-stream");
        }
        byte[] twice = bytes(20_000);
        node.setProperty("twice1", binary(twice));
        node.setProperty("twice2", binary(twice));
        node.setProperty("many", new Value[] {values.createValue(binary(bytes(10))), values.createValue(binary(bytes(9_000))),
            values.createValue(binary(new byte[0]))});
        for (int i = 0; i < 60; i++) node.setProperty("some" + i, binary(bytes(random.nextInt(30_000))));
        // A binary that nothing names any more: its count of references is 0.
        node.setProperty("gone", binary(bytes(33_333)));
        session.save();
        node.getProperty("gone").remove();
        session.save();
    }

    private byte[] bytes(int length) {
        byte[] content = new byte[length];
        random.nextBytes(content);
        return content;
    }

    private Binary binary(byte[] content) throws Exception {
        return values.createBinary(new ByteArrayInputStream(content));
    }

    private void lists(Node node) throws Exception {
        node.setProperty("none", new String[0]);
        node.setProperty("noNumbers", new Value[0], PropertyType.LONG);
        node.setProperty("noBinaries", new Value[0], PropertyType.BINARY);
        node.setProperty("one", new String[] {"only"});
        node.setProperty("emptyStrings", new String[] {"", "", ""});
        String[] thousand = new String[1000];
        for (int i = 0; i < thousand.length; i++) thousand[i] = "value '" + i + "'";
        node.setProperty("thousand", thousand);
        node.setProperty("booleans", new Value[] {values.createValue(true), values.createValue(false)});
        node.setProperty("dates", new Value[] {values.createValue(date("UTC", 2000, 0, 1, 0, 0, 0, 0)), values.createValue(date("GMT+01:00", 2000, 0, 1, 0, 0, 0, 5))});
        node.setProperty("longs", new Value[] {values.createValue(1L), values.createValue(Long.MAX_VALUE)});
    }

    private void references(Node node) throws Exception {
        Node[] targets = new Node[20];
        for (int i = 0; i < targets.length; i++) {
            targets[i] = node.addNode("target" + i, "nt:unstructured");
            targets[i].addMixin("mix:referenceable");
        }
        session.save();
        org.modeshape.jcr.api.ValueFactory more = (org.modeshape.jcr.api.ValueFactory) values;
        for (int i = 0; i < 60; i++) {
            Node source = node.addNode("source" + i, "nt:unstructured");
            Node target = targets[random.nextInt(targets.length)];
            source.setProperty("strong", target);
            source.setProperty("weak", values.createValue(target, true));
            source.setProperty("simple", more.createSimpleReference(target));
        }
        node.setProperty("all", new Value[] {values.createValue(targets[0]), values.createValue(targets[1]), values.createValue(targets[0])});
    }

    private void siblings(Node node) throws Exception {
        for (int i = 0; i < 5; i++) node.addNode("same", "nt:unstructured").setProperty("index", (long) i);
        node.addNode("o'clock \u00fc \u65e5\u672c", "nt:unstructured");
        node.addNode("{http://example.org/none#}x", "nt:unstructured");
    }

    private void children(Node root) throws Exception {
        Node ordered = root.addNode("ordered", "lab:folder");
        for (int i = 0; i < 1500; i++) ordered.addNode("child" + i, "nt:unstructured").setProperty("index", (long) i);
        session.save();
        ordered.orderBefore("child1499", "child0");
        ordered.orderBefore("child700", null);
        session.save();
        String[] kinds = {"mode:unorderedTinyCollection", "mode:unorderedSmallCollection", "mode:unorderedLargeCollection"};
        int[] counts = {40, 300, 1200};
        for (int kind = 0; kind < kinds.length; kind++) {
            Node collection = root.addNode("unordered" + kind, "lab:bag");
            collection.addMixin(kinds[kind]);
            for (int i = 0; i < counts[kind]; i++) collection.addNode("child" + i, "nt:unstructured").setProperty("index", (long) i);
            session.save();
        }
    }

    private void versions(Node root) throws Exception {
        VersionManager manager = session.getWorkspace().getVersionManager();
        for (int i = 0; i < 10; i++) {
            Node node = root.addNode("versioned" + i, "nt:unstructured");
            node.addMixin("mix:versionable");
            node.setProperty("state", "first");
            node.setProperty("data", binary(bytes(5_000 + i)));
            session.save();
            for (int j = 0; j < 4; j++) {
                manager.checkin(node.getPath());
                manager.checkout(node.getPath());
                node.setProperty("state", "it's state " + j);
                node.setProperty("data", binary(bytes(4_090 + 3 * j)));
                session.save();
            }
            manager.checkin(node.getPath());
        }
        Node labelled = session.getNode("/content/versioned0");
        manager.getVersionHistory(labelled.getPath()).addVersionLabel("1.0", "first 'label'", false);
    }

    private void shared(Node root) throws Exception {
        Node original = root.addNode("shared", "nt:unstructured");
        original.addMixin("mix:shareable");
        original.setProperty("text", "seen in two places");
        Node other = root.addNode("elsewhere", "nt:unstructured");
        session.save();
        session.getWorkspace().clone("default", original.getPath(), other.getPath() + "/alsoShared", false);
    }

    private void workspaces() throws Exception {
        session.getWorkspace().createWorkspace("second");
        Session second = session.getRepository().login("second");
        try {
            Node node = second.getRootNode().addNode("in'second", "nt:unstructured");
            node.setProperty("data", second.getValueFactory().createBinary(new ByteArrayInputStream(bytes(7_777))));
            for (int i = 0; i < 20; i++) node.addNode("n" + i, "nt:unstructured").setProperty("i", i);
            second.save();
        } finally {
            second.logout();
        }
    }

    private void deep(Node root) throws Exception {
        Node node = root;
        for (int i = 0; i < 40; i++) node = node.addNode("level" + i, "nt:unstructured");
        node.setProperty("bottom", true);
    }
}
