//! Reading and writing block-map pages: the tasks that do it.
//!
//! A zone has a fixed number of readers and of writers, each a task with a buffer of its own, so a page's
//! memory is never lent to a device: it is copied in and out, and can be read and changed while it is
//! written.
//!
//! A page must not get to disk before the journal entries of its changes are there for good. Those are
//! committed before a change is made; what remains is the device's volatile cache. So a writer copies its
//! page, waits for a flush that began after that, and only then writes. Writers whose turns come together
//! share one flush.
//!
//! A page that has never been on disk is written twice: first saying of itself that it is not valid, and
//! then, when that is there for good, saying that it is. If the first write is torn, what is there is
//! taken for a page never written, and the journal still has its changes. The second changes one byte.

use std::rc::Rc;

use super::core::MapCore;
use super::state::{PageCopy, PageRead};
use crate::buffer::Buffer;
use crate::error::VdoError;
use crate::format::block_map_page::BlockMapPageMut;
use crate::runtime::base::IoClass;

fn class(is_leaf: bool) -> IoClass {
    if is_leaf {
        IoClass::PageCache
    } else {
        IoClass::Metadata
    }
}

/// Reads pages, one after the other, for ever.
pub(super) async fn read_pages(zone: Rc<MapCore>, mut buffer: Buffer) {
    loop {
        let next = zone.state.borrow_mut().next_read();
        let Some(PageRead {
            id,
            pbn,
            is_leaf,
            made,
        }) = next
        else {
            zone.read_work.wait().await;
            continue;
        };
        let mut result = Ok(());
        if made {
            let nonce = zone.state.borrow().nonce();
            BlockMapPageMut::format(buffer.first_block_mut(), nonce, pbn, false);
        } else {
            (buffer, result) = zone.base.read(class(is_leaf), pbn, buffer, 1).await;
            let check = || zone.state.borrow().check(buffer.first_block(), pbn);
            result = result.and_then(|()| check());
        }
        match result {
            Ok(()) => {
                let mut state = zone.state.borrow_mut();
                if let Some(overlay) = &zone.overlay {
                    overlay.apply(pbn, buffer.first_block_mut(), state.nonce());
                }
                state.read_done(id, buffer.first_block());
            }
            Err(error) => {
                zone.enter_read_only(&error);
                zone.state.borrow_mut().read_failed(id, &error);
            }
        }
        zone.settle();
    }
}

/// Writes pages, one after the other, for ever.
pub(super) async fn write_pages(zone: Rc<MapCore>, mut buffer: Buffer) {
    loop {
        zone.notice_read_only();
        let next = zone.state.borrow_mut().next_write(buffer.first_block_mut());
        let Some(copy) = next else {
            zone.settle();
            zone.write_work.wait().await;
            continue;
        };
        let result;
        (buffer, result) = write_page(&zone, &copy, buffer).await;
        match result {
            Ok(()) => zone.state.borrow_mut().write_done(copy.id),
            Err(error) => {
                zone.enter_read_only(&error);
                zone.state.borrow_mut().write_failed(copy.id);
            }
        }
        zone.settle();
    }
}

async fn write_page(
    zone: &MapCore,
    copy: &PageCopy,
    mut buffer: Buffer,
) -> (Buffer, Result<(), VdoError>) {
    loop {
        if let Err(error) = zone.flushes.flush().await {
            return (buffer, Err(error));
        }
        if zone.services.is_read_only() {
            return (buffer, Err(VdoError::ReadOnly));
        }
        let class = class(copy.is_leaf);
        let result;
        (buffer, result) = zone.base.write(class, copy.pbn, buffer, 1, false).await;
        let done = result.is_err() || !copy.first || {
            BlockMapPageMut::new(buffer.first_block_mut()).set_initialized(true)
        };
        if done {
            return (buffer, result);
        }
    }
}
