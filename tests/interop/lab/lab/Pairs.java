package lab;

import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.io.PrintStream;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.concurrent.Callable;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicLongArray;
import java.util.concurrent.atomic.AtomicReference;
import javax.jcr.Node;
import javax.jcr.NodeIterator;
import javax.jcr.Session;
import javax.jcr.ValueFactory;

/**
 * Nodes that are written in twos, so that a backup which is not of one moment shows. In each transaction a writer
 * raises its own count, and puts that count into both nodes of one pair, with binaries made of it and references to
 * each other; or it removes a pair. Whatever moment is looked at, both nodes of a pair have one count, the binaries are
 * those of that count, and the pair last written has the count of its writer.
 */
final class Pairs {
    private static final int PAIRS = 40;

    /**
     * Writes with some threads for some seconds, and says each second how far each of them has committed. At half of
     * the time something else is done once, the result of which is the result.
     */
    static int write(Opened opened, int writers, int seconds, PrintStream out, Callable<Integer> once) throws Exception {
        return write(opened, writers, seconds, out, once, new AtomicLong(Long.MAX_VALUE));
    }

    /** The same, but no longer than until the moment `told`, which may be moved. */
    static int write(Opened opened, int writers, int seconds, PrintStream out, Callable<Integer> once, AtomicLong told) throws Exception {
        Session setup = opened.login();
        Node top = setup.itemExists("/pairs") ? setup.getNode("/pairs") : setup.getRootNode().addNode("pairs", "nt:unstructured");
        for (int writer = 0; writer < writers; writer++) {
            if (top.hasNode("writer" + writer)) continue;
            Node own = top.addNode("writer" + writer, "nt:unstructured");
            own.addMixin("mix:referenceable");
            own.addNode("state", "nt:unstructured").setProperty("count", 0L);
        }
        setup.save();
        setup.logout();
        long end = System.nanoTime() + seconds * 1_000_000_000L;
        AtomicLongArray committed = new AtomicLongArray(writers);
        AtomicReference<Throwable> failed = new AtomicReference<>();
        List<Thread> threads = new ArrayList<>();
        for (int writer = 0; writer < writers; writer++) {
            int own = writer;
            Thread thread = new Thread(() -> {
                try {
                    forever(opened, own, end, told, committed);
                } catch (Throwable e) {
                    failed.compareAndSet(null, e);
                }
            });
            thread.start();
            threads.add(thread);
        }
        int result = 0;
        boolean done = false;
        while (System.nanoTime() < Math.min(end, told.get()) && failed.get() == null) {
            if (!done && System.nanoTime() > end - seconds * 500_000_000L) {
                result = once.call();
                done = true;
            }
            out.println("committed " + committed);
            out.flush();
            Thread.sleep(1000);
        }
        for (Thread thread : threads) thread.join();
        if (failed.get() != null) throw new IllegalStateException("a writer failed", failed.get());
        out.println("committed " + committed);
        return result;
    }

    private static void forever(Opened opened, int writer, long end, AtomicLong told, AtomicLongArray committed) throws Exception {
        Session session = opened.login();
        Random random = new Random(writer);
        long count = session.getNode("/pairs/writer" + writer + "/state").getProperty("count").getLong();
        while (System.nanoTime() < Math.min(end, told.get())) {
            count++;
            Node own = session.getNode("/pairs/writer" + writer);
            Node state = own.getNode("state");
            state.setProperty("count", count);
            String name = "pair" + random.nextInt(PAIRS);
            if (own.hasNode(name) && random.nextInt(4) == 0) {
                own.getNode(name).remove();
                state.setProperty("last", "");
            } else {
                Node pair = own.hasNode(name) ? own.getNode(name) : pair(own, name);
                fill(session, pair.getNode("a"), pair.getNode("b"), writer, count);
                fill(session, pair.getNode("b"), pair.getNode("a"), writer, count);
                state.setProperty("last", name);
            }
            session.save();
            committed.set(writer, count);
        }
        session.logout();
    }

    private static Node pair(Node own, String name) throws Exception {
        Node pair = own.addNode(name, "nt:unstructured");
        pair.addNode("a", "nt:unstructured").addMixin("mix:referenceable");
        pair.addNode("b", "nt:unstructured").addMixin("mix:referenceable");
        return pair;
    }

    private static void fill(Session session, Node node, Node other, int writer, long count) throws Exception {
        ValueFactory values = session.getValueFactory();
        node.setProperty("count", count);
        node.setProperty("text", "it's " + count);
        node.setProperty("strong", other);
        node.setProperty("weak", values.createValue(other, true));
        node.setProperty("small", values.createBinary(new ByteArrayInputStream(bytes(writer, count, 300))));
        node.setProperty("large", values.createBinary(new ByteArrayInputStream(bytes(writer, count, large(count)))));
    }

    private static int large(long count) {
        return 5_000 + (int) (count % 7) * 10_000;
    }

    private static byte[] bytes(int writer, long count, int length) {
        byte[] content = new byte[length];
        new Random(writer * 1_000_003L + count).nextBytes(content);
        return content;
    }

    /** Looks at all pairs, prints what is wrong and how much there was, and says whether all was well. */
    static boolean check(Opened opened, PrintStream out) throws Exception {
        Session session = opened.login();
        long wrong = 0;
        long pairs = 0;
        List<Long> counts = new ArrayList<>();
        NodeIterator writers = session.getNode("/pairs").getNodes();
        long number = writers.getSize();
        for (int writer = 0; writer < number; writer++) {
            Node own = session.getNode("/pairs/writer" + writer);
            long count = own.getNode("state").getProperty("count").getLong();
            counts.add(count);
            String last = own.getNode("state").hasProperty("last") ? own.getNode("state").getProperty("last").getString() : "";
            if (!last.isEmpty() && own.getNode(last).getNode("a").getProperty("count").getLong() != count) {
                out.println("wrong: " + own.getPath() + " wrote " + last + " last, which has another count");
                wrong++;
            }
            NodeIterator all = own.getNodes("pair*");
            while (all.hasNext()) {
                Node pair = all.nextNode();
                pairs++;
                String fault = fault(pair.getNode("a"), pair.getNode("b"), writer, count);
                if (fault == null) fault = fault(pair.getNode("b"), pair.getNode("a"), writer, count);
                if (fault == null) continue;
                out.println("wrong: " + pair.getPath() + ": " + fault);
                wrong++;
            }
        }
        out.println("counts " + counts);
        out.println("pairs " + pairs);
        out.println("wrong " + wrong);
        session.logout();
        return wrong == 0;
    }

    private static String fault(Node node, Node other, int writer, long most) {
        try {
            long count = node.getProperty("count").getLong();
            if (count != other.getProperty("count").getLong()) return "two counts in one pair";
            if (count > most) return "a count above that of its writer";
            if (!node.getProperty("text").getString().equals("it's " + count)) return "another text";
            if (!node.getProperty("strong").getNode().isSame(other)) return "another strong reference";
            if (!node.getProperty("weak").getNode().isSame(other)) return "another weak reference";
            if (!other.getReferences().hasNext()) return "no referrers";
            if (!Arrays.equals(read(node, "small"), bytes(writer, count, 300))) return "another small binary";
            if (!Arrays.equals(read(node, "large"), bytes(writer, count, large(count)))) return "another large binary";
            return null;
        } catch (Exception e) {
            return e.toString();
        }
    }

    private static byte[] read(Node node, String property) throws Exception {
        try (InputStream content = node.getProperty(property).getBinary().getStream()) {
            return content.readAllBytes();
        }
    }
}
