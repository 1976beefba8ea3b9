package lab;

import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.TimeUnit;
import javax.jcr.Session;
import org.modeshape.jcr.JcrRepository;
import org.modeshape.jcr.ModeShapeEngine;
import org.modeshape.jcr.RepositoryConfiguration;

/**
 * A repository, opened with the configuration that Fedora 4.7 and 5 ship as jdbc-postgresql and jdbc-mysql. Only the
 * database, the directory of the binaries and the node types (Fedora has its own) are others.
 */
final class Opened implements AutoCloseable {
    private final ModeShapeEngine engine;
    final JcrRepository repository;

    Opened(String url, Path binaries) throws Exception {
        Files.createDirectories(binaries);
        String driver = url.startsWith("jdbc:postgresql:") ? "org.postgresql.Driver" : "com.mysql.jdbc.Driver";
        String user = System.getProperty("lab.user", "fedora");
        String password = System.getProperty("lab.password", "");
        String json = """
            {
              "name" : "repo", "jndiName" : "",
              "workspaces" : { "predefined" : ["default"], "default" : "default", "allowCreation" : true, "cacheSize" : 10000 },
              "storage" : {
                "persistence" : { "type" : "db", "connectionUrl" : "%s", "driver" : "%s", "username" : "%s", "password" : "%s", "compress" : %s },
                "binaryStorage" : { "type" : "file", "directory" : "%s", "minimumBinarySizeInBytes" : 4096 }
              },
              "security" : { "anonymous" : { "roles" : ["readonly","readwrite","admin"], "useOnFailedLogin" : false } },
              "garbageCollection" : { "threadPool" : "modeshape-gc", "initialTime" : "00:00", "intervalInHours" : 24 }
            }
            """.formatted(url, driver, user, password, Boolean.getBoolean("lab.compress"), binaries.toAbsolutePath());
        engine = new ModeShapeEngine();
        engine.start();
        repository = engine.deploy(RepositoryConfiguration.read(json));
        engine.startRepository("repo").get(5, TimeUnit.MINUTES);
    }

    Session login() throws Exception {
        return repository.login();
    }

    Session login(String workspace) throws Exception {
        return repository.login(workspace);
    }

    @Override
    public void close() {
        try {
            engine.shutdown().get(2, TimeUnit.MINUTES);
        } catch (Exception e) {
            throw new IllegalStateException("the engine did not stop", e);
        }
    }

    static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
