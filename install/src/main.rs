//! `vdo_pages FOLDER`: writes the manual page and the completions of each program into a folder, as they are installed below a prefix.
//!
//! Both are made of the command line that the program itself parses, so they say what it does.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Command, Parser};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;

/// Writes manual pages and shell completions.
#[derive(Debug, Parser)]
#[command(name = "vdo_pages", version)]
struct Arguments {
    /// What is "share" below a prefix
    folder: PathBuf,
}

/// Where shells look for completions, below "share".
const SHELLS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions"),
    (Shell::Zsh, "zsh/site-functions"),
    (Shell::Fish, "fish/vendor_completions.d"),
];

/// Programs for everyone are in section 1 of the manual, those of a service in section 8.
fn programs() -> [(Command, &'static str); 4] {
    [
        (vdo_estimate::cli::command(), "1"),
        (vdo_watch::top::command(), "1"),
        (vdo_tgt::cli::command(), "8"),
        (vdo_watch::exporter::command(), "8"),
    ]
}

fn write(share: &Path) -> io::Result<()> {
    for (command, section) in programs() {
        let name = command.get_name().to_owned();
        let folder = share.join(format!("man/man{section}"));
        fs::create_dir_all(&folder)?;
        let page = Man::new(command.clone()).section(section);
        page.render(&mut File::create(folder.join(format!("{name}.{section}")))?)?;
        for (shell, folder) in SHELLS {
            let folder = share.join(folder);
            fs::create_dir_all(&folder)?;
            let made = generate_to(shell, &mut command.clone(), &name, &folder)?;
            if shell == Shell::Bash {
                // It is found by the name of the program.
                fs::rename(made, folder.join(&name))?;
            }
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match write(&arguments.folder) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vdo_pages: {}: {error}", arguments.folder.display());
            ExitCode::FAILURE
        }
    }
}
