//! Two programs that watch volumes over the RPC socket of either host, `vdo_tgt` or `spdk_vdo_tgt`.
//!
//! Both ask a target for a [`target::Sample`] now and then, and keep nothing in it: they may come and go, and so may the
//! target.
//!
//! - [`target`]: what a target is asked, and what it says
//! - [`exporter`]: `vdo_exporter`, which hands every statistic to Prometheus
//! - [`top`]: `vdo_top`, which shows them in a terminal

pub mod exporter;
pub mod target;
pub mod top;
