package lab;

import java.io.BufferedOutputStream;
import java.io.FileOutputStream;
import java.io.FileDescriptor;
import java.io.IOException;
import java.io.InputStream;
import java.io.PrintStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.atomic.AtomicLong;
import javax.jcr.Session;
import org.modeshape.jcr.api.Problem;
import org.modeshape.jcr.api.Problems;
import org.modeshape.jcr.api.RepositoryManager;
import org.modeshape.jcr.api.Workspace;

/** The real ModeShape as a command: see `tests/interop/README.md`. */
public final class ModeShapeLab {
    private static final String USAGE = """
        write URL BINARIES [SEED] [odd] [unreadable]   fill a new repository
        write-many URL BINARIES NODES                  fill a new repository with so many nodes alike, a tenth with a binary
        dump URL BINARIES                              print every node and property, sorted
        backup URL BINARIES DIR                        RepositoryManager.backupRepository
        restore URL BINARIES DIR                       RepositoryManager.restoreRepository
        write-forever URL BINARIES SECONDS [THREADS]   write pairs of nodes at full rate, at most until its input ends
        hot-backup URL BINARIES DIR SECONDS [THREADS]  the same, and in the midst of it backupRepository
        check-invariants URL BINARIES                  look at those pairs
        vectors                                        print made up documents: id, BSON, line of a backup, BSON restored
        rows URL                                       the same of the telling rows of a table""";

    public static void main(String[] arguments) throws Exception {
        PrintStream out = new PrintStream(new BufferedOutputStream(new FileOutputStream(FileDescriptor.out), 1 << 16), false, "UTF-8");
        int status = 2;
        try {
            status = run(Arrays.asList(arguments), out);
        } catch (IndexOutOfBoundsException e) {
            System.err.println(USAGE);
        } catch (Exception e) {
            e.printStackTrace();
        }
        out.flush();
        // ModeShape leaves threads behind that are no daemons.
        Runtime.getRuntime().halt(status);
    }

    private static int run(List<String> words, PrintStream out) throws Exception {
        if (words.get(0).equals("vectors")) {
            Vectors.print(out);
            return 0;
        }
        if (words.get(0).equals("rows")) {
            Vectors.rows(words.get(1), out);
            return 0;
        }
        long begin = System.nanoTime();
        try (Opened opened = new Opened(words.get(1), Path.of(words.get(2)))) {
            System.err.printf("opened after %d ms%n", (System.nanoTime() - begin) / 1_000_000);
            begin = System.nanoTime();
            int status = command(opened, words, out);
            System.err.printf("%s took %d ms%n", words.get(0), (System.nanoTime() - begin) / 1_000_000);
            return status;
        }
    }

    private static int command(Opened opened, List<String> words, PrintStream out) throws Exception {
        switch (words.get(0)) {
            case "write": {
                List<String> rest = words.subList(3, words.size());
                long seed = rest.isEmpty() ? 1 : Long.parseLong(rest.get(0));
                Session session = opened.login();
                Content content = new Content(session, seed);
                content.ordinary();
                if (rest.contains("odd")) content.odd();
                if (rest.contains("unreadable")) content.unreadable();
                session.logout();
                return 0;
            }
            case "write-many":
                new Content(opened.login(), 1).many(Integer.parseInt(words.get(3)));
                return 0;
            case "dump": {
                Dump dump = new Dump();
                Session session = opened.login();
                for (String workspace : session.getWorkspace().getAccessibleWorkspaceNames()) {
                    Session other = opened.login(workspace);
                    dump.workspace(other);
                    other.logout();
                }
                session.logout();
                dump.print(out);
                return 0;
            }
            case "backup": {
                Files.createDirectories(Path.of(words.get(3)));
                return report(manager(opened).backupRepository(Path.of(words.get(3)).toFile()));
            }
            case "restore":
                return report(manager(opened).restoreRepository(Path.of(words.get(3)).toFile()));
            case "write-forever": {
                AtomicLong told = new AtomicLong(Long.MAX_VALUE);
                Thread listener = new Thread(() -> untilClosed(System.in, told));
                listener.setDaemon(true);
                listener.start();
                int threads = words.size() > 4 ? Integer.parseInt(words.get(4)) : 3;
                return Pairs.write(opened, threads, Integer.parseInt(words.get(3)), out, () -> 0, told);
            }
            case "hot-backup": {
                Path directory = Files.createDirectories(Path.of(words.get(3)));
                int threads = words.size() > 5 ? Integer.parseInt(words.get(5)) : 3;
                return Pairs.write(opened, threads, Integer.parseInt(words.get(4)), out, () -> report(manager(opened).backupRepository(directory.toFile())));
            }
            case "check-invariants":
                return Pairs.check(opened, out) ? 0 : 1;
            default:
                System.err.println(USAGE);
                return 2;
        }
    }

    /** Moves the moment to the one at which nobody can write to the input any more. */
    private static void untilClosed(InputStream input, AtomicLong moment) {
        try {
            while (input.read() >= 0) continue;
        } catch (IOException e) {
            System.err.println("the input ended: " + e);
        }
        moment.set(System.nanoTime());
    }

    private static RepositoryManager manager(Opened opened) throws Exception {
        return ((Workspace) opened.login().getWorkspace()).getRepositoryManager();
    }

    private static int report(Problems problems) {
        for (Problem problem : problems) {
            Throwable cause = problem.getThrowable();
            System.err.println("problem: " + problem.getMessage() + (cause == null ? "" : ": " + cause));
            while (cause != null && (cause = cause.getCause()) != null) System.err.println("problem: caused by " + cause);
        }
        return problems.hasProblems() ? 1 : 0;
    }
}
