//! The tasks that write a zone's slab metadata.
//!
//! Each takes a job, does its I/O, and hands the outcome to the slab it is for, which may make new jobs.
//! In read-only mode jobs end without I/O, so that a drain comes to an end.

use std::rc::Rc;

use super::work::Job;
use super::zone::PhysicalZone;
use crate::error::VdoError;
use crate::runtime::base::IoClass;
use crate::types::Pbn;

/// Serves the jobs of a zone, for ever.
pub(super) async fn serve(zone: Rc<PhysicalZone>) {
    let wanted = zone.with(|state| state.core.work.wanted());
    loop {
        while let Some(job) = zone.with(|state| state.core.work.next()) {
            run(&zone, job).await;
        }
        wanted.wait().await;
    }
}

fn writable(zone: &PhysicalZone) -> Result<(), VdoError> {
    if zone.with(|state| state.core.is_read_only()) {
        Err(VdoError::ReadOnly)
    } else {
        Ok(())
    }
}

async fn run(zone: &Rc<PhysicalZone>, job: Job) {
    match job {
        Job::JournalBlock {
            slab,
            sequence,
            mut buffer,
        } => {
            let mut result = writable(zone);
            if result.is_ok() {
                let pbn = zone.journal_block(slab, sequence);
                (buffer, result) = zone
                    .base()
                    .write(IoClass::Metadata, pbn, buffer, 1, false)
                    .await;
            }
            zone.with(|state| {
                let (slab, core) = state.slab(slab);
                slab.journal_written(core, sequence, result);
                state.return_buffer(buffer);
                state.core.work.finished();
            });
        }
        Job::ReferenceBlock {
            slab,
            block,
            mut buffer,
        } => {
            // The changes in this block must not become durable before the journals that explain them.
            let mut result = flush(zone).await;
            if result.is_ok() {
                let pbn = zone.reference_block(slab, block);
                (buffer, result) = zone
                    .base()
                    .write(IoClass::Metadata, pbn, buffer, 1, false)
                    .await;
            }
            zone.with(|state| {
                let (slab, core) = state.slab(slab);
                slab.reference_written(core, block, result);
                state.return_buffer(buffer);
                state.core.work.finished();
            });
        }
        Job::Reap { slab } => {
            let result = flush(zone).await;
            zone.with(|state| {
                let (slab, core) = state.slab(slab);
                slab.reaped(core, result);
                state.core.work.finished();
            });
        }
        Job::Summary { block } => {
            let may_begin = || zone.with(|state| !state.core.summary.is_held());
            zone.summary_changed.wait_until(may_begin).await;
            // Pack first: what the entries speak of is what the flush makes durable.
            let (pbn, buffer): (Pbn, _) = zone.with(|state| state.core.summary.start_write(block));
            let result = flush(zone).await;
            let (buffer, result) = match result {
                Ok(()) => {
                    zone.base()
                        .write(IoClass::Metadata, pbn, buffer, 1, false)
                        .await
                }
                error => (buffer, error),
            };
            zone.with(|state| {
                state.summary_written(block, buffer, result);
                state.core.work.finished();
            });
            zone.summary_changed.wake_all();
        }
    }
}

/// Flushes; what is to follow the flush is not done in a volume that turned read-only meanwhile.
async fn flush(zone: &PhysicalZone) -> Result<(), VdoError> {
    writable(zone)?;
    zone.flush().await?;
    writable(zone)
}
