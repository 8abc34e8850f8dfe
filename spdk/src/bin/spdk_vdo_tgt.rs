//! `spdk_vdo_tgt`: all that SPDK's `spdk_tgt` is, with the vdo bdev module in it.
//!
//! Its flags, its subsystems and its configuration are those of `spdk_tgt`; SPDK parses the flags itself.

use std::ffi::OsStr;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::OnceLock;

use spdk_sys as sys;
use vdo_rpc::service;

/// Where the process number goes.
static PID_FILE: OnceLock<PathBuf> = OnceLock::new();

unsafe extern "C" fn usage() {
    println!(
        " -f <file>                 write the process number to this file once the target is up"
    );
    if sys::HAS_SOCKET_FOLDER {
        println!(
            " -S <path>                 folder of the sockets of vhost and vfio-user (default: .)"
        );
    }
}

unsafe extern "C" fn argument(flag: c_int, value: *mut c_char) -> c_int {
    match u8::try_from(flag) {
        Ok(b'f') => {
            // SAFETY: getopt hands over the flag's argument.
            let path = unsafe { CStr::from_ptr(value) };
            let _ = PID_FILE.set(PathBuf::from(path.to_string_lossy().into_owned()));
            0
        }
        // SAFETY: as above.
        Ok(b'S') => unsafe { sys::set_socket_folder(value) },
        _ => -libc::EINVAL,
    }
}

unsafe extern "C" fn started(_context: *mut c_void) {
    if let Some(path) = PID_FILE.get()
        && let Err(error) = std::fs::write(path, format!("{}\n", std::process::id()))
    {
        eprintln!("cannot write pid file {}: {error}", path.display());
        // SAFETY: the framework is up.
        unsafe { sys::spdk_app_stop(-1) }
        return;
    }
    service::ready();
}

/// The volumes that a configuration file names are to be as it names them, and not found before.
///
/// # Safety
/// `file` is null or a path that SPDK was given.
unsafe fn read_ahead(file: *const c_char) {
    if file.is_null() {
        return;
    }
    // SAFETY: the caller's promise.
    let path = unsafe { CStr::from_ptr(file) };
    // What is wrong with the file, SPDK says.
    if let Ok(text) = std::fs::read_to_string(OsStr::from_bytes(path.to_bytes())) {
        spdk::vdo::spoken_for::configured(vdo_rpc::config_file::bases(&text));
    }
}

/// The program is to end. Exports and the bdev layer wait for requests under way, so the volumes hear of it first.
unsafe extern "C" fn stop() {
    service::stopping();
    spdk::vdo::give_way();
    // SAFETY: SPDK calls this on the app thread, while the program runs.
    unsafe { sys::spdk_app_stop(0) };
}

fn main() -> ExitCode {
    spdk::vdo::linked();
    let arguments: Vec<CString> = std::env::args_os()
        .filter_map(|argument| CString::new(argument.into_encoded_bytes()).ok())
        .collect();
    let mut pointers: Vec<*mut c_char> = arguments
        .iter()
        .map(|argument| argument.as_ptr().cast_mut())
        .collect();
    let count = pointers.len() as c_int;
    pointers.push(std::ptr::null_mut());
    let mut options = sys::spdk_app_opts::default();
    // SAFETY: SPDK's way to run a program: the arguments and the options outlive the calls.
    let result = unsafe {
        sys::spdk_app_opts_init(&mut options, size_of::<sys::spdk_app_opts>());
        options.name = c"spdk_vdo_tgt".as_ptr();
        options.shutdown_cb = Some(stop);
        let parsed = sys::spdk_app_parse_args(
            count,
            pointers.as_mut_ptr(),
            &mut options,
            if sys::HAS_SOCKET_FOLDER {
                c"f:S:"
            } else {
                c"f:"
            }
            .as_ptr(),
            std::ptr::null(),
            Some(argument),
            Some(usage),
        );
        match parsed {
            sys::SPDK_APP_PARSE_ARGS_SUCCESS => {
                read_ahead(options.json_config_file);
                service::starting();
                let result = sys::spdk_app_start(&mut options, Some(started), std::ptr::null_mut());
                sys::spdk_app_fini();
                result
            }
            sys::SPDK_APP_PARSE_ARGS_HELP => 0,
            _ => 1,
        }
    };
    if result == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
