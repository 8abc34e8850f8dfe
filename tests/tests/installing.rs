//! What `make install` and `make deb` put where, and that it works from there.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};
use tempfile::TempDir;
use vdo_rpc::client::RpcClient;
use vdo_tests::nbd_client::NbdClient;
use vdo_tests::service::Service;
use vdo_tests::target::built;
use vdo_tests::tools::{skipped, text};

/// What is installed below a prefix, beside the programs that need SPDK.
const INSTALLED: [&str; 31] = [
    "bin/vdo_estimate",
    "bin/vdo_exporter",
    "bin/vdo_tgt",
    "bin/vdo_top",
    "lib/python/nvme_reserve.py",
    "lib/python/vdo_rpc.py",
    "lib/systemd/system/vdo_exporter.service",
    "lib/systemd/system/vdo_tgt.service",
    "share/bash-completion/completions/vdo_estimate",
    "share/bash-completion/completions/vdo_exporter",
    "share/bash-completion/completions/vdo_tgt",
    "share/bash-completion/completions/vdo_top",
    "share/doc/spdk-vdo/CHANGELOG.md",
    "share/doc/spdk-vdo/README.md",
    "share/doc/spdk-vdo/examples/file-nbd.json",
    "share/doc/spdk-vdo/grafana-dashboard.json",
    "share/doc/spdk-vdo/operations.md",
    "share/doc/spdk-vdo/rpc.md",
    "share/fish/vendor_completions.d/vdo_estimate.fish",
    "share/fish/vendor_completions.d/vdo_exporter.fish",
    "share/fish/vendor_completions.d/vdo_tgt.fish",
    "share/fish/vendor_completions.d/vdo_top.fish",
    "share/man/man1/vdo_estimate.1",
    "share/man/man1/vdo_top.1",
    "share/man/man8/vdo_exporter.8",
    "share/man/man8/vdo_tgt.8",
    "share/zsh/site-functions/_vdo_estimate",
    "share/zsh/site-functions/_vdo_exporter",
    "share/zsh/site-functions/_vdo_tgt",
    "share/zsh/site-functions/_vdo_top",
    "../etc/vdo/vdo_tgt.json",
];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folder of all programs of this workspace.
fn programs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let mut folder = PathBuf::new();
        for (variable, package, program) in [
            ("VDO_TGT", "vdo-tgt", "vdo_tgt"),
            ("VDO_ESTIMATE", "vdo-estimate", "vdo_estimate"),
            ("VDO_TOP", "vdo-watch", "vdo_top"),
            ("VDO_EXPORTER", "vdo-watch", "vdo_exporter"),
            ("VDO_PAGES", "vdo-install", "vdo_pages"),
        ] {
            folder = built(variable, package, program);
            folder.pop();
        }
        folder
    })
}

/// `make install`, without what needs SPDK.
fn install(root: &Path, prefix: &str) -> Output {
    let mut make = Command::new("make");
    make.args(["--silent", "install"])
        .arg(format!("DESTDIR={}", root.display()))
        .arg(format!("PREFIX={prefix}"))
        .env("BUILT", programs())
        .env("WITHOUT_SPDK", "1")
        .env("PYTHON_DIR", format!("{prefix}/lib/python"))
        .current_dir(workspace());
    make.output().expect("there is make, which runs this test")
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// A root with all that is installed, below `/usr`.
fn installed() -> TempDir {
    let root = folder();
    let output = install(root.path(), "/usr");
    assert!(output.status.success(), "{}", text(&output));
    root
}

/// All files below a folder, by their paths from there.
fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut left = vec![folder.to_owned()];
    while let Some(next) = left.pop() {
        for entry in next.read_dir().expect("a folder").flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => left.push(path),
                false => {
                    found.insert(path.strip_prefix(folder).expect("it is in it").to_owned());
                }
            }
        }
    }
    found
}

/// Whether a program is there to be run; if not, the test is named as skipped.
fn has(test: &str, program: &str) -> bool {
    let found = Command::new("which").arg(program).output();
    let is_there = found.is_ok_and(|output| output.status.success());
    if !is_there {
        skipped(test, format!("{program} is not there"));
    }
    is_there
}

/// Runs the command of a unit, all paths below `root`.
fn start(root: &Path, unit: &str) -> Service {
    let unit = fs::read_to_string(root.join(unit)).expect("a unit");
    assert!(unit.contains("\nType=notify\n"), "{unit}");
    let command = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart="));
    let mut words = command.expect("a command").split_whitespace();
    let below = |path: &str| root.join(path.trim_start_matches('/'));
    let mut run = Command::new(below(words.next().expect("a program")));
    for word in words.filter(|word| !word.starts_with('$')) {
        match word.starts_with('/') {
            true => run.arg(below(word)),
            false => run.arg(word),
        };
    }
    // As RuntimeDirectory= would.
    fs::create_dir_all(root.join("run/vdo_tgt")).expect("a folder");
    Service::start(run, root)
}

/// Starts a volume with the example configuration, from the unit, writes to it, and starts it again.
fn serves_a_volume(root: &Path) {
    let unit = "usr/lib/systemd/system/vdo_tgt.service";
    let example = root.join("usr/share/doc/spdk-vdo/examples/file-nbd.json");
    let example = fs::read_to_string(example).expect("an example");
    let paths = |text: &str| {
        text.replace("/var/lib", &root.join("var/lib").display().to_string())
            .replace("/run/", &format!("{}/", root.join("run").display()))
    };
    fs::create_dir_all(root.join("var/lib/vdo")).expect("a folder");
    let disk = fs::File::create(root.join("var/lib/vdo/disk0.img")).expect("a file");
    disk.set_len(4 << 30).expect("a size");

    // As it is installed, there is nothing in the configuration.
    let service = start(root, unit);
    let said = service.wait_for("READY=1");
    assert!(
        said.contains("STATUS=loading the configuration\n"),
        "{said}"
    );
    service.stop();

    fs::write(root.join("etc/vdo/vdo_tgt.json"), paths(&example)).expect("a file");
    let data = vec![0x5a; 4096];
    for round in 0..2 {
        let service = start(root, unit);
        service.wait_for("READY=1");
        // It is ready: the volume is there at once, and so is its export.
        let mut rpc = RpcClient::connect(&root.join("run/vdo_tgt/rpc.sock")).expect("RPC");
        let version = rpc
            .call("spdk_get_version", &Value::Null)
            .expect("a version");
        let wanted = format!("spdk-vdo {}", env!("CARGO_PKG_VERSION"));
        assert_eq!(version["version"], json!(wanted));
        let stats = rpc.call("bdev_vdo_get_stats", &json!({"name": "vdo0"}));
        let used = stats.expect("a volume")[0]["data_blocks_used"].clone();
        assert_eq!(used, json!(round));
        let socket = root.join("run/vdo_tgt/vdo0.sock");
        let sink = Arc::new(|_, _: &[u8]| {});
        let mut client = NbdClient::connect(&socket, 1, sink).expect("an export");
        client.write(round * 4096, &data).expect("a write");
        client.flush().expect("a flush");
        drop((client, rpc));
        service.stop();
    }
}

/// Runs a command that is to end well and complain of nothing.
fn run_without_a_word(command: &mut Command) -> Output {
    let output = command.output().expect("it was found");
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{command:?}: {}",
        text(&output)
    );
    output
}

#[test]
fn what_is_installed_is_what_belongs_there_and_serves_a_volume() {
    let root = installed();
    let wanted = INSTALLED.map(|path| match path.strip_prefix("../") {
        Some(path) => PathBuf::from(path),
        None => Path::new("usr").join(path),
    });
    assert_eq!(files(root.path()), BTreeSet::from(wanted));
    for path in files(root.path()) {
        let mode = root.path().join(&path).metadata().expect("it is there");
        let is_program = path.starts_with("usr/bin");
        let wanted = if is_program { 0o755 } else { 0o644 };
        assert_eq!(mode.permissions().mode() & 0o7777, wanted, "{path:?}");
    }
    for program in ["vdo_tgt", "vdo_top", "vdo_exporter", "vdo_estimate"] {
        let output = Command::new(root.path().join("usr/bin").join(program))
            .arg("--version")
            .output();
        let version = String::from_utf8(output.expect("it runs").stdout).expect("text");
        assert_eq!(
            version,
            format!("{program} {}\n", env!("CARGO_PKG_VERSION"))
        );
    }
    serves_a_volume(root.path());

    // What an administrator wrote is left alone.
    let config = root.path().join("etc/vdo/vdo_tgt.json");
    fs::write(&config, "mine").expect("a file");
    assert!(install(root.path(), "/usr").status.success());
    assert_eq!(fs::read_to_string(&config).expect("it is there"), "mine");
}

#[test]
fn units_name_the_prefix_and_are_what_systemd_takes() {
    let test = "units_name_the_prefix_and_are_what_systemd_takes";
    let root = folder();
    let output = install(root.path(), "/opt/vdo");
    assert!(output.status.success(), "{}", text(&output));
    let path = root
        .path()
        .join("opt/vdo/lib/systemd/system/vdo_tgt.service");
    let unit = fs::read_to_string(path).expect("a unit");
    assert!(
        unit.contains("ExecStart=/opt/vdo/bin/vdo_tgt -c /etc/vdo/vdo_tgt.json"),
        "{unit}"
    );
    if !has(test, "systemd-analyze") {
        return;
    }
    for name in [
        "vdo_tgt.service",
        "spdk_vdo_tgt.service",
        "vdo_exporter.service",
    ] {
        let unit =
            fs::read_to_string(workspace().join("install/systemd").join(name)).expect("a unit");
        // The program and its manual need not be installed here.
        let there = unit.replace(
            &format!("/usr/bin/{}", name.trim_end_matches(".service")),
            "/bin/true",
        );
        let there: String = there
            .lines()
            .filter(|line| !line.starts_with("Documentation="))
            .map(|line| format!("{line}\n"))
            .collect();
        let copy = root.path().join(name);
        fs::write(&copy, there).expect("a file");
        run_without_a_word(Command::new("systemd-analyze").arg("verify").arg(&copy));
    }
}

#[test]
fn manual_pages_can_be_read_and_completions_loaded() {
    let test = "manual_pages_can_be_read_and_completions_loaded";
    let root = installed();
    let share = root.path().join("usr/share");
    let manual = workspace().join("install/man/spdk_vdo_tgt.8");
    if has(test, "man") {
        for page in [
            share.join("man/man1/vdo_estimate.1"),
            share.join("man/man8/vdo_tgt.8"),
            manual,
        ] {
            let mut man = Command::new("man");
            man.args(["--warnings", "-l"]).arg(&page);
            let output = run_without_a_word(man.env("MANWIDTH", "120"));
            let shown = String::from_utf8_lossy(&output.stdout);
            assert!(
                shown.contains("SYNOPSIS") && shown.contains("--") && shown.len() > 800,
                "{shown}"
            );
        }
    }
    for (shell, script) in [
        ("bash", "bash-completion/completions/vdo_tgt"),
        ("bash", "bash-completion/completions/vdo_estimate"),
        ("zsh", "zsh/site-functions/_vdo_tgt"),
        ("fish", "fish/vendor_completions.d/vdo_tgt.fish"),
    ] {
        if !has(test, shell) {
            continue;
        }
        run_without_a_word(Command::new(shell).arg("-n").arg(share.join(script)));
    }
}

/// An environment of its own for Python, and what `import vdo_rpc` says there.
struct Environment(TempDir);

impl Environment {
    /// With these options; `None` if there can be none, and the test is named as skipped.
    fn new(test: &str, options: &[&str]) -> Option<Environment> {
        let folder = folder();
        let mut make = Command::new("python3");
        make.args(["-m", "venv"]).args(options).arg(folder.path());
        match make.output() {
            Ok(output) if output.status.success() => Some(Environment(folder)),
            _ => {
                skipped(test, "python3 makes no environment here");
                None
            }
        }
    }

    fn python(&self) -> PathBuf {
        self.0.path().join("bin/python3")
    }

    fn import(&self) -> Output {
        let mut import = Command::new(self.python());
        import.args(["-c", "import vdo_rpc; print(vdo_rpc.__file__)"]);
        import.env_remove("PYTHONPATH").current_dir("/");
        import.output().expect("it was made")
    }
}

#[test]
fn the_plugin_is_found_without_a_path_and_has_the_version_of_all() {
    let test = "the_plugin_is_found_without_a_path_and_has_the_version_of_all";
    let project = workspace().join("rpc/python/pyproject.toml");
    let project = fs::read_to_string(project).expect("a project");
    let version = format!("\nversion = \"{}\"\n", env!("CARGO_PKG_VERSION"));
    assert!(project.contains(&version), "{project}");
    let Some(environment) = Environment::new(test, &["--without-pip"]) else {
        return;
    };
    let imported = environment.import().status.success();
    assert!(!imported, "it is there before it is installed");
    let mut make = Command::new("make");
    let prefix = environment.0.path();
    make.args(["--silent", "install"])
        .arg(format!("PREFIX={}", prefix.display()))
        .env("BUILT", programs())
        .env("WITHOUT_SPDK", "1")
        .env("SYSCONFDIR", prefix)
        .env("PYTHON", environment.python())
        .current_dir(workspace());
    let output = make.output().expect("there is make");
    assert!(output.status.success(), "{}", text(&output));
    let found = environment.import();
    assert!(found.status.success(), "{}", text(&found));
    let place = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(Path::new(&place).starts_with(prefix), "{place}");
}

#[test]
fn the_plugin_is_installed_by_pip() {
    let test = "the_plugin_is_installed_by_pip";
    if std::env::var_os("THOROUGH").is_none() {
        return skipped(test, "it takes a while; THOROUGH=1 has it");
    }
    let Some(environment) = Environment::new(test, &[]) else {
        return;
    };
    let pip = |arguments: &[&str]| {
        let mut pip = Command::new(environment.python());
        pip.args(["-m", "pip", "install", "--quiet"])
            .args(arguments);
        pip.output().expect("it was made")
    };
    if !pip(&["setuptools", "wheel"]).status.success() {
        return skipped(test, "PyPI cannot be reached");
    }
    // A copy, for what is built is left beside the sources.
    let copy = folder();
    for entry in workspace().join("rpc/python").read_dir().expect("a folder") {
        let source = entry.expect("a file").path();
        if source.is_file() {
            let name = source.file_name().expect("a file has a name");
            fs::copy(&source, copy.path().join(name)).expect("a file");
        }
    }
    let copy = copy.path().to_str().expect("a name");
    let output = pip(&["--no-index", "--no-build-isolation", "--no-deps", copy]);
    assert!(output.status.success(), "{}", text(&output));
    let found = environment.import();
    assert!(found.status.success(), "{}", text(&found));
}

#[test]
fn the_debian_package_has_all_of_it_and_serves_a_volume() {
    let test = "the_debian_package_has_all_of_it_and_serves_a_volume";
    let tool = Command::new(env!("CARGO"))
        .args(["deb", "--version"])
        .output();
    if !tool.is_ok_and(|output| output.status.success()) {
        return skipped(test, "cargo-deb is not there (make deb installs it)");
    }
    if !has(test, "dpkg-deb") {
        return;
    }
    let root = folder();
    let mut deb = Command::new(workspace().join("install/deb.sh"));
    deb.env("BUILT", programs())
        .env("DEB_DIR", root.path().join("package.deb"))
        // Compressed little.
        .env("DEB_OPTIONS", "--fast --no-strip");
    let output = deb.output().expect("a script");
    assert!(output.status.success(), "{}", text(&output));
    let package = root.path().join("package.deb");
    let field = |name: &str| {
        let output = Command::new("dpkg-deb")
            .arg("--field")
            .arg(&package)
            .arg(name)
            .output();
        String::from_utf8_lossy(&output.expect("it was found").stdout)
            .trim()
            .to_owned()
    };
    assert_eq!(field("Package"), "spdk-vdo");
    assert!(
        field("Version").starts_with(env!("CARGO_PKG_VERSION")),
        "{}",
        field("Version")
    );
    assert!(field("Depends").contains("libc6"), "{}", field("Depends"));
    let unpacked = root.path().join("root");
    let output = Command::new("dpkg-deb")
        .arg("--extract")
        .arg(&package)
        .arg(&unpacked)
        .output();
    assert!(output.is_ok_and(|output| output.status.success()));
    let found = files(&unpacked);
    for path in INSTALLED {
        let path = path.replace("lib/python/", "lib/python3/dist-packages/");
        let wanted = match path.strip_prefix("../") {
            Some(path) => PathBuf::from(path),
            None => Path::new("usr").join(&path),
        };
        // Pages and long texts are packed, by Debian's rules.
        let packed = PathBuf::from(format!("{}.gz", wanted.display()));
        assert!(
            found.contains(&wanted) || found.contains(&packed),
            "{wanted:?} of {found:?}"
        );
    }
    let conffiles = Command::new("dpkg-deb")
        .arg("--info")
        .arg(&package)
        .arg("conffiles")
        .output();
    let conffiles = String::from_utf8_lossy(&conffiles.expect("it was found").stdout).into_owned();
    assert_eq!(conffiles.trim(), "/etc/vdo/vdo_tgt.json");
    serves_a_volume(&unpacked);
}
