package lab;

import java.io.InputStream;
import java.io.PrintStream;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import javax.jcr.Binary;
import javax.jcr.Node;
import javax.jcr.NodeIterator;
import javax.jcr.Property;
import javax.jcr.PropertyIterator;
import javax.jcr.PropertyType;
import javax.jcr.Session;
import javax.jcr.Value;

/**
 * Every node and property of all workspaces, the version storage and the node types among them, as sorted lines. Two
 * repositories are equal when their lines are.
 */
final class Dump {
    private final List<String> lines = new ArrayList<>();
    private long nodes;
    private long properties;
    private long binaries;
    private long binaryBytes;

    void workspace(Session session) throws Exception {
        node(session.getWorkspace().getName(), session.getRootNode());
    }

    /** Prints the lines, and then the counts as lines that begin with `#`. */
    void print(PrintStream out) {
        lines.sort(null);
        lines.forEach(out::println);
        out.println("# nodes " + nodes);
        out.println("# properties " + properties);
        out.println("# binaries " + binaries);
        out.println("# bytes of binaries " + binaryBytes);
    }

    private void node(String workspace, Node node) throws Exception {
        String path = node.getPath();
        // The system area is one for all workspaces, and is in the lines once.
        if (path.equals("/jcr:system") && !workspace.equals("default")) return;
        nodes++;
        String at = workspace + " " + escaped(path);
        line(at + " = " + node.getIdentifier());
        PropertyIterator all = node.getProperties();
        while (all.hasNext()) property(at, all.nextProperty());
        List<String> order = new ArrayList<>();
        NodeIterator children = node.getNodes();
        while (children.hasNext()) {
            Node child = children.nextNode();
            order.add(child.getName() + "[" + child.getIndex() + "]");
            node(workspace, child);
        }
        if (node.getPrimaryNodeType().hasOrderableChildNodes() && !order.isEmpty()) {
            String digest = HexFormat.of().formatHex(MessageDigest.getInstance("SHA-1").digest(Opened.utf8(String.join("\n", order))));
            line(at + " order of " + order.size() + " children " + digest);
        }
    }

    private void property(String at, Property property) throws Exception {
        properties++;
        StringBuilder text = new StringBuilder(at + " @ " + escaped(property.getName()) + " " + org.modeshape.jcr.api.PropertyType.nameFromValue(property.getType()));
        if (property.isMultiple()) {
            Value[] several = property.getValues();
            text.append(" [").append(several.length).append("]");
            // The values that are weak references to referrers, or the members of a set, keep their order too.
            for (Value value : several) text.append(" ").append(value(value));
        } else {
            text.append(" ").append(value(property.getValue()));
        }
        line(text.toString());
    }

    private void line(String line) {
        lines.add(line);
    }

    private String value(Value value) throws Exception {
        switch (value.getType()) {
            case PropertyType.BINARY:
                return binary(value.getBinary());
            case PropertyType.DOUBLE:
                return value.getDouble() + "/" + Long.toHexString(Double.doubleToRawLongBits(value.getDouble()));
            default:
                return org.modeshape.jcr.api.PropertyType.nameFromValue(value.getType()) + ":\"" + escaped(value.getString()) + "\"";
        }
    }

    /** The digest and the length of what can be read, which need not be what the documents say. */
    private String binary(Binary binary) throws Exception {
        binaries++;
        MessageDigest digest = MessageDigest.getInstance("SHA-1");
        long length = 0;
        try (InputStream content = binary.getStream()) {
            byte[] buffer = new byte[65_536];
            for (int read; (read = content.read(buffer)) >= 0; length += read) digest.update(buffer, 0, read);
        }
        binaryBytes += length;
        String said = binary.getSize() == length ? "" : " but said to have " + binary.getSize();
        return HexFormat.of().formatHex(digest.digest()) + "/" + length + said;
    }

    static String escaped(String text) {
        StringBuilder escaped = new StringBuilder();
        for (int i = 0; i < text.length(); i++) {
            char c = text.charAt(i);
            if (c == '\\') escaped.append("\\\\");
            else if (c >= 0x20 && c < 0x7f) escaped.append(c);
            else escaped.append(String.format("\\u%04x", (int) c));
        }
        return escaped.length() <= 400 ? escaped.toString() : escaped.substring(0, 80) + "..." + escaped.length() + "/" + digest(text);
    }

    private static String digest(String text) {
        try {
            return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-1").digest(text.getBytes("UTF-16BE")));
        } catch (Exception e) {
            throw new IllegalStateException(e);
        }
    }
}
