//! With the feature `spdk-programs`: links the objects of SPDK's own programs to the programs of the same
//! name here, which add nothing but the vdo module.

use std::path::PathBuf;

/// The program, where its object lies in SPDK's source tree, and what else its linker is told.
const PROGRAMS: &[(&str, &str, &[&str])] = &[
    (
        "spdk_vdo_bdevio",
        "test/bdev/bdevio/bdevio.o",
        &["-lcunit", "-Wl,--wrap=spdk_app_start"],
    ),
    (
        "spdk_vdo_bdevperf",
        "examples/bdev/bdevperf/bdevperf.o",
        &["-Wl,--wrap=spdk_zmalloc"],
    ),
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=SPDK_DIR");
    if std::env::var_os("CARGO_FEATURE_SPDK_PROGRAMS").is_none() {
        return;
    }
    let Some(folder) = std::env::var_os("SPDK_DIR").map(PathBuf::from) else {
        eprintln!(
            "\nspdk: SPDK_DIR must name the source tree of SPDK, built with its tests and examples\n"
        );
        std::process::exit(1);
    };
    for (program, object, arguments) in PROGRAMS {
        let object = folder.join(object);
        if !object.is_file() {
            eprintln!(
                "\nspdk: {} is missing; build SPDK with its tests and examples\n",
                object.display()
            );
            std::process::exit(1);
        }
        println!("cargo:rerun-if-changed={}", object.display());
        println!("cargo:rustc-link-arg-bin={program}={}", object.display());
        for argument in *arguments {
            println!("cargo:rustc-link-arg-bin={program}={argument}");
        }
    }
}
