//! The numbers of users and groups.

use std::ffi::{CString, c_char, c_int};
use std::ptr;

/// Bytes for what the system says of an account; it asks for more if a group has many members.
const ROOM: usize = 4096;

/// The most room that is given.
const MOST_ROOM: usize = 1 << 20;

/// The number of a user, by name or number.
///
/// # Errors
/// When there is none of that name.
pub(super) fn user(name: &str) -> Result<u32, String> {
    // SAFETY: an account of all zeroes is a valid value of this plain C struct.
    let mut found: libc::passwd = unsafe { std::mem::zeroed() };
    let known = look_up(name, "user", |name, room, length| {
        let mut result = ptr::null_mut();
        // SAFETY: all pointers are valid for the call, and `room` has `length` bytes.
        let errno = unsafe { libc::getpwnam_r(name, &mut found, room, length, &mut result) };
        (errno, !result.is_null())
    })?;
    Ok(known.unwrap_or(found.pw_uid))
}

/// The number of a group, by name or number.
///
/// # Errors
/// When there is none of that name.
pub(super) fn group(name: &str) -> Result<u32, String> {
    // SAFETY: an account of all zeroes is a valid value of this plain C struct.
    let mut found: libc::group = unsafe { std::mem::zeroed() };
    let known = look_up(name, "group", |name, room, length| {
        let mut result = ptr::null_mut();
        // SAFETY: all pointers are valid for the call, and `room` has `length` bytes.
        let errno = unsafe { libc::getgrnam_r(name, &mut found, room, length, &mut result) };
        (errno, !result.is_null())
    })?;
    Ok(known.unwrap_or(found.gr_gid))
}

/// Asks the system about a name, with as much room as it wants. A name that is a number is that number, and nobody is asked.
fn look_up(
    name: &str,
    kind: &str,
    mut ask: impl FnMut(*const c_char, *mut c_char, usize) -> (c_int, bool),
) -> Result<Option<u32>, String> {
    if let Ok(number) = name.parse::<u32>() {
        // The largest means "as it is" to the system.
        return match number {
            u32::MAX => Err(format!("{number} is no {kind}")),
            number => Ok(Some(number)),
        };
    }
    let unknown = || format!("there is no {kind} {name:?}");
    let text = CString::new(name).map_err(|_| unknown())?;
    let mut room = vec![0; ROOM];
    loop {
        match ask(text.as_ptr(), room.as_mut_ptr(), room.len()) {
            (0, true) => return Ok(None),
            (libc::ERANGE, _) if room.len() < MOST_ROOM => room.resize(room.len() * 4, 0),
            _ => return Err(unknown()),
        }
    }
}
