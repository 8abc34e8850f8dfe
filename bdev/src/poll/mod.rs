//! A zone thread as its host sees it: something with a mailbox, to be polled.
//!
//! Other threads put requests, messages and errands into its mailbox ([`mailbox`]) and wake it. Its host
//! polls it ([`thread`]): one poll takes the mail and the completions, runs the tasks, and hands out what they left.
//! Flushes wait at a desk of their own ([`flush_desk`]). This stands on top of the requests and the zones and knows the
//! host's types; below it, nothing but requests does.

use std::sync::atomic;

mod doorbell;
pub(crate) mod flush_desk;
pub mod mailbox;
pub mod thread;
