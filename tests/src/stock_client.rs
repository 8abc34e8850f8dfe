//! SPDK's own RPC client from PyPI, with the product's plugin.
//!
//! The client is installed once into a virtual environment under the build folder.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

use crate::target::{Options, Target};
use crate::tools::{skipped, text};

/// The `spdk-rpc` command, or why there is none.
fn client() -> &'static Result<PathBuf, String> {
    static CLIENT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    CLIENT.get_or_init(|| {
        let test = std::env::current_exe().map_err(|error| error.to_string())?;
        let build = test
            .ancestors()
            .nth(3)
            .ok_or("the test is not in a build folder")?;
        let venv = build.join("spdk-client");
        let command = venv.join("bin/spdk-rpc");
        if !command.exists() {
            // What an interrupted installation left is of no use.
            let _ = std::fs::remove_dir_all(&venv);
            step(Command::new("python3").arg("-m").arg("venv").arg(&venv))?;
            let pip = [
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--retries",
                "1",
                "--timeout",
                "20",
                "spdk",
            ];
            step(Command::new(venv.join("bin/pip")).args(pip))?;
        }
        Ok(command)
    })
}

fn step(command: &mut Command) -> Result<(), String> {
    match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(text(&output).lines().last().unwrap_or_default().to_owned()),
        Err(error) => Err(format!("{command:?}: {error}")),
    }
}

/// A target and the stock client for it.
#[derive(Debug)]
pub struct Stock {
    /// The target.
    pub target: Target,
    command: PathBuf,
}

impl Stock {
    /// `None`, with a line that says so, where the client cannot be had.
    pub fn new(test: &str, options: Options) -> Option<Stock> {
        match client() {
            Ok(command) => Some(Stock {
                target: Target::start_with(options),
                command: command.clone(),
            }),
            Err(why) => {
                skipped(
                    test,
                    format_args!("SPDK's client cannot be installed: {why}"),
                );
                None
            }
        }
    }

    /// Runs a command.
    ///
    /// # Panics
    /// When the client cannot be run.
    pub fn output(&self, arguments: &[&str], input: Option<&Path>) -> Output {
        let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rpc/python");
        let mut command = Command::new(&self.command);
        command
            .env("PYTHONPATH", plugin)
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
            .arg("-s")
            .arg(self.target.socket())
            .args(["--plugin", "vdo_rpc"])
            .args(arguments);
        if let Some(input) = input {
            command.stdin(File::open(input).expect("the input is there"));
        }
        command.output().expect("the client was installed")
    }

    /// What a command that must succeed prints, as JSON, or as a string.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, arguments: &[&str]) -> Value {
        let output = self.output(arguments, None);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        serde_json::from_str(&printed).unwrap_or_else(|_| printed.trim().into())
    }

    /// The error a command that must fail prints: its code and its message.
    ///
    /// # Panics
    /// When it succeeds.
    pub fn fail(&self, arguments: &[&str]) -> (i64, String) {
        let output = self.output(arguments, None);
        assert!(!output.status.success(), "{arguments:?} succeeded");
        let printed = text(&output);
        let (_, error) = printed
            .split_once("response:\n")
            .unwrap_or_else(|| panic!("{printed}"));
        let mut error = serde_json::Deserializer::from_str(error).into_iter::<Value>();
        let error = error.next().unwrap().unwrap();
        (
            error["code"].as_i64().unwrap(),
            error["message"].as_str().unwrap().to_owned(),
        )
    }
}
