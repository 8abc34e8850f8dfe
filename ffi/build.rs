//! Finds the installed SPDK, links it whole, and has bindgen read its headers.
//!
//! Where it looks, in this order: the folder `SPDK_PREFIX` names; wherever pkg-config looks
//! (`PKG_CONFIG_PATH` included); `/opt/spdk`; `/usr/local`.
//!
//! SPDK's modules, subsystems and RPC methods, and DPDK's drivers, register themselves in constructors
//! that nothing refers to, so their static libraries are linked with whole-archive. What is linked is
//! what `spdk_tgt` has: every module and every subsystem the installation has a pkg-config file for.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::exit;

/// Packages without which nothing works.
const REQUIRED: &[&str] = &[
    "spdk_event",
    "spdk_event_bdev",
    "spdk_bdev",
    "spdk_bdev_modules",
    "spdk_env_dpdk",
    "spdk_syslibs",
];

/// Packages `spdk_tgt` is made of beside those; an SPDK built without one is served as it is.
const USUAL: &[&str] = &[
    "spdk_accel_modules",
    "spdk_env_dpdk_rpc",
    "spdk_fsdev_aio",
    "spdk_keyring_modules",
    "spdk_scheduler_modules",
    "spdk_sock_modules",
];

/// The oldest release this is meant for: the first that passes flushes on to NVMe devices.
const OLDEST: (u32, u32) = (25, 9);

const FUNCTIONS: &[&str] = &[
    "spdk_app_(fini|get_core_mask|get_shm_id|opts_init|parse_args|start|stop|usage)",
    "spdk_bdev_(alias_add|close|desc_get_bdev|first|free_io|get_.*|get_by_name|io_complete|io_complete_aio_status|io_complete_nvme_status)",
    "spdk_bdev_(io_get_aio_status|io_get_nvme_status|io_get_buf|io_type_supported|is_md_interleaved|next|open_ext)",
    "spdk_bdev_(destruct_done|io_get_thread|module_.*|notify_blockcnt_change|queue_io_wait|register|unregister|wait_for_examine)",
    "spdk_bdev_nvme_(get|set)_opts",
    "spdk_bdev_(flush_blocks|read_blocks|unmap_blocks|write_blocks)",
    "spdk_cpuset_(alloc|count|free|get_cpu|set_cpu|zero)",
    "spdk_(dma_.*|free|zmalloc|get_ticks|get_ticks_hz)",
    "spdk_env_get_(core_count|current_core|first_core|next_core)",
    "spdk_(for_each_channel|for_each_channel_continue|get_io_channel|put_io_channel|get_thread)",
    "spdk_interrupt_mode_is_enabled",
    "spdk_io_channel_(from_ctx|get_thread|iter_get_.*)",
    "spdk_io_device_(register|unregister)",
    "spdk_json_(parse|write_.*)",
    "spdk_jsonrpc_(begin_result|end_result|send_error_response)",
    "spdk_log(|_register_flag)",
    "spdk_notify_(send|type_register)",
    "spdk_poller_(register_named|register_interrupt|unregister)",
    "spdk_rpc_register_method",
    "_?spdk_trace_(add_register_fn|get_tpoint_mask|record|register_description_ext)",
    "spdk_thread_(create|exit|get_app_thread|get_last_tsc|get_name|is_app_thread|send_msg)",
];

const TYPES: &[&str] = &[
    "spdk_app_opts",
    "spdk_bdev",
    "spdk_bdev_fn_table",
    "spdk_bdev_io",
    "spdk_bdev_io_wait_entry",
    "spdk_bdev_opts",
    "spdk_bdev_module",
    "spdk_bdev_nvme_opts",
    "spdk_json_val",
    "spdk_json_write_ctx",
    "spdk_log_flag",
    "spdk_nvme_(generic_command_status_code|status_code_type)",
    "spdk_trace_(register_fn|tpoint_opts)",
];

const CONSTANTS: &[&str] = &[
    "SPDK_APP_PARSE_ARGS_.*",
    "SPDK_BDEV_.*",
    "SPDK_ENV_.*",
    "SPDK_IO_CHANNEL_STRUCT_SIZE",
    "SPDK_JSON_VAL_.*",
    "SPDK_LOG_(ERROR|WARN|NOTICE|INFO|DEBUG|DISABLED)",
    "SPDK_MALLOC_.*",
    "SPDK_POLLER_.*",
    "SPDK_RPC_.*",
    "SPDK_TRACE_(ARG_TYPE_INT|MAX_GROUP_ID)",
    "SPDK_VERSION_.*",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=wrapper.h");
    for variable in ["SPDK_PREFIX", "PKG_CONFIG_PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let found = find();
    link(&found);
    generate(&found);
}

/// What the installation is made of.
struct Found {
    libraries: Vec<String>,
    library_paths: BTreeSet<PathBuf>,
    include_paths: BTreeSet<PathBuf>,
    version: (u32, u32),
}

fn give_up(problem: &str) -> ! {
    eprintln!("\nspdk-sys: {problem}\n");
    eprintln!(
        "  SPDK is built and installed as https://spdk.io/doc/getting_started.html says; then say where it is:\n\
         \x20   SPDK_PREFIX=/where/it/is make spdk\n\
         \x20 Everything else of this repository builds without it: make\n"
    );
    exit(1)
}

/// Folders of pkg-config files to look in before pkg-config's own; `None` is just pkg-config's own.
fn places() -> Vec<Option<PathBuf>> {
    if let Some(prefix) = std::env::var_os("SPDK_PREFIX") {
        return vec![Some(Path::new(&prefix).join("lib/pkgconfig"))];
    }
    let default = |prefix: &str| Some(Path::new(prefix).join("lib/pkgconfig"));
    vec![None, default("/opt/spdk"), default("/usr/local")]
}

fn probe(package: &str) -> Result<pkg_config::Library, pkg_config::Error> {
    pkg_config::Config::new()
        .cargo_metadata(false)
        .env_metadata(false)
        .statik(true)
        .probe(package)
}

fn find() -> Found {
    let inherited = std::env::var("PKG_CONFIG_PATH").unwrap_or_default();
    let mut looked = Vec::new();
    for place in places() {
        let path = match &place {
            Some(folder) => format!("{}:{inherited}", folder.display()),
            None => inherited.clone(),
        };
        // SAFETY: a build script has one thread here.
        unsafe { std::env::set_var("PKG_CONFIG_PATH", &path) };
        match probe("spdk_bdev") {
            Ok(bdev) => return collect(&bdev),
            Err(error) => looked.push(match &place {
                Some(folder) => format!("{}: no spdk_bdev.pc", folder.display()),
                None => format!(
                    "pkg-config (PKG_CONFIG_PATH={inherited:?}): {}",
                    first_line(&error)
                ),
            }),
        }
    }
    give_up(&format!(
        "no installed SPDK was found. Looked in:\n    {}",
        looked.join("\n    ")
    ))
}

fn first_line(error: &pkg_config::Error) -> String {
    let text = error.to_string();
    text.lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default()
        .to_owned()
}

/// Gathers the libraries of every package `spdk_tgt` is made of.
fn collect(bdev: &pkg_config::Library) -> Found {
    let mut packages: BTreeSet<String> = REQUIRED.iter().map(|&name| name.to_owned()).collect();
    for folder in &bdev.link_paths {
        let files = std::fs::read_dir(folder.join("pkgconfig"));
        for file in files.into_iter().flatten().flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            if let Some(package) = name.strip_suffix(".pc")
                && (package.starts_with("spdk_event_") || USUAL.contains(&package))
            {
                packages.insert(package.to_owned());
            }
        }
    }
    let mut found = Found {
        libraries: Vec::new(),
        library_paths: BTreeSet::new(),
        include_paths: BTreeSet::new(),
        version: (0, 0),
    };
    for package in &packages {
        let library = probe(package).unwrap_or_else(|error| {
            give_up(&format!(
                "SPDK is there, but its package {package} cannot be used: {error}"
            ))
        });
        found.library_paths.extend(library.link_paths);
        found.include_paths.extend(library.include_paths);
        // ISA-L is named by the path of its archive.
        let files = library.link_files.iter().filter_map(|file| {
            let name = file.file_name()?.to_str()?;
            found
                .library_paths
                .extend(file.parent().map(Path::to_owned));
            Some(name.strip_prefix("lib")?.strip_suffix(".a")?.to_owned())
        });
        for name in files.chain(library.libs) {
            if !found.libraries.contains(&name) {
                found.libraries.push(name);
            }
        }
    }
    found.version = version(&found.include_paths);
    if found.version < OLDEST {
        let ((year, month), (oldest_year, oldest_month)) = (found.version, OLDEST);
        give_up(&format!(
            "the SPDK in {:?} is v{year}.{month:02}; v{oldest_year}.{oldest_month:02} or later is needed",
            found.include_paths
        ));
    }
    found
}

/// Year and month of the release, from its `version.h`.
fn version(include_paths: &BTreeSet<PathBuf>) -> (u32, u32) {
    for folder in include_paths {
        let Ok(text) = std::fs::read_to_string(folder.join("spdk/version.h")) else {
            continue;
        };
        let number = |name: &str| {
            text.lines()
                .find_map(|line| {
                    line.trim()
                        .strip_prefix("#define")?
                        .trim()
                        .strip_prefix(name)
                })
                .and_then(|rest| rest.trim().parse().ok())
        };
        if let (Some(year), Some(month)) =
            (number("SPDK_VERSION_MAJOR"), number("SPDK_VERSION_MINOR"))
        {
            return (year, month);
        }
    }
    give_up(&format!(
        "no spdk/version.h that can be read in {include_paths:?}"
    ))
}

fn link(found: &Found) {
    for path in &found.library_paths {
        println!("cargo:rustc-link-search=native={}", path.display());
    }
    for name in &found.libraries {
        let archive = format!("lib{name}.a");
        let is_static = found
            .library_paths
            .iter()
            .any(|path| path.join(&archive).is_file());
        let registers_itself = name.starts_with("spdk_") || name.starts_with("rte_");
        match (registers_itself, is_static) {
            (true, true) => println!("cargo:rustc-link-lib=static:+whole-archive,-bundle={name}"),
            (true, false) => give_up(&format!(
                "{archive} is missing in {:?}; a static build of SPDK is needed (--without-shared)",
                found.library_paths
            )),
            (false, true) => println!("cargo:rustc-link-lib=static:-bundle={name}"),
            (false, false) => println!("cargo:rustc-link-lib={name}"),
        }
    }
    for optional in ["spdk_vhost", "spdk_vfu_tgt"] {
        println!("cargo:rustc-check-cfg=cfg({optional})");
        if found.libraries.iter().any(|name| name == optional) {
            println!("cargo:rustc-cfg={optional}");
        }
    }
    let (year, month) = found.version;
    println!("cargo:version={year}.{month:02}");
}

fn generate(found: &Found) {
    let mut builder = bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(
            found
                .include_paths
                .iter()
                .map(|path| format!("-I{}", path.display())),
        )
        .prepend_enum_name(false)
        .layout_tests(false)
        .derive_default(true)
        .generate_comments(false)
        .use_core()
        .rust_edition(bindgen::RustEdition::Edition2024);
    for pattern in FUNCTIONS {
        builder = builder.allowlist_function(pattern);
    }
    for pattern in TYPES {
        builder = builder.allowlist_type(pattern);
    }
    for pattern in CONSTANTS {
        builder = builder.allowlist_var(pattern);
    }
    let bindings = builder.generate().unwrap_or_else(|error| {
        give_up(&format!(
            "bindgen cannot read SPDK's headers in {:?}: {error}\n\
             \x20 (bindgen needs libclang: on Debian, apt-get install libclang-dev clang)",
            found.include_paths
        ))
    });
    let folder = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    bindings
        .write_to_file(folder.join("bindings.rs"))
        .unwrap_or_else(|error| give_up(&format!("the bindings cannot be written: {error}")));
}
