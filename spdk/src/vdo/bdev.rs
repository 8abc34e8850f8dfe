//! A vdo bdev as SPDK's bdev layer sees it.
//!
//! A [`VdoBdev`] is made by [`life`](super::life) when its volume is up. From [`VdoBdev::register`] on the bdev layer
//! holds its address; it calls `destruct` once the last user has closed the bdev, which takes the volume down
//! and frees it.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::ffi::{CString, c_int, c_void};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use futures_channel::oneshot;
use serde_json::{Value, json};
use spdk_sys as sys;
use vdo::types::BLOCK_SIZE;
use vdo::volume::Volume;
use vdo_rpc::params::Create;
use vdo_rpc::volume;
use vdo_rpc::{ErrorCode, RpcError};

use super::channel::{self, UserChannel};
use super::life::{self, Origin, Parts};
use super::{NAME, SpdkHost, examine, reset};
use crate::desc;
use crate::json::Writer;

/// Blocks that one unmap or write-zeroes of the engine spans at most; larger ones are split by the bdev layer, so
/// that others get their turn.
const LONGEST_UNMAP: u32 = 8192;

/// I/O that does not cross a multiple of this many blocks (1 MiB) is preferred.
const PREFERRED_BOUNDARY: u32 = 256;

/// Why a volume could not be shut down, for whoever asked for it.
pub type Outcome = Rc<RefCell<Option<RpcError>>>;

/// A volume and the bdev it is.
pub struct VdoBdev {
    bdev: UnsafeCell<sys::spdk_bdev>,
    name: CString,
    volume: Arc<Volume<SpdkHost>>,
    params: RefCell<Create>,
    origin: Cell<Origin>,
    /// What the base bdev needs memory aligned to.
    alignment: usize,
    parts: RefCell<Option<Parts>>,
    outcome: Outcome,
    /// Told when the last channel is gone.
    device_gone: RefCell<Option<oneshot::Sender<()>>>,
}

static FUNCTIONS: sys::spdk_bdev_fn_table = {
    // SAFETY: null pointers are what C leaves in members that are not named. In particular there are no memory
    // domains: the bdev layer brings data of other domains into memory of this one.
    let mut functions: sys::spdk_bdev_fn_table = unsafe { std::mem::zeroed() };
    functions.destruct = Some(destruct);
    functions.submit_request = Some(submit_request);
    functions.io_type_supported = Some(io_type_supported);
    functions.get_io_channel = Some(get_io_channel);
    functions.dump_info_json = Some(dump_info_json);
    functions.write_config_json = Some(write_config_json);
    functions
};

impl VdoBdev {
    /// A bdev for `volume`, which is up.
    pub fn new(
        volume: Arc<Volume<SpdkHost>>,
        params: Create,
        origin: Origin,
        parts: Parts,
    ) -> Box<VdoBdev> {
        Box::new(VdoBdev {
            bdev: UnsafeCell::new(sys::spdk_bdev::default()),
            name: CString::new(params.name.as_str()).unwrap_or_default(),
            volume,
            params: RefCell::new(params),
            origin: Cell::new(origin),
            alignment: parts.base.buffer_alignment(),
            parts: RefCell::new(Some(parts)),
            outcome: Outcome::default(),
            device_gone: RefCell::new(None),
        })
    }

    /// Enters the bdev.
    ///
    /// # Errors
    /// SPDK's errno, positive, and the bdev back: the name or the UUID is taken, or memory ran out.
    pub fn register(self: Box<VdoBdev>) -> Result<NonNull<VdoBdev>, (i32, Box<VdoBdev>)> {
        let layout = self.volume.layout();
        let (blocks, uuid) = (layout.logical_blocks, layout.uuid);
        let base = self.parts.borrow().as_ref().map(|parts| parts.base.bdev());
        let raw = Box::into_raw(self);
        // SAFETY: the box is SPDK's from here until `destruct`, or until registering fails. The base bdev is open.
        unsafe {
            let bdev = &mut *(*raw).bdev.get();
            bdev.ctxt = raw.cast();
            bdev.name = (*raw).name.as_ptr().cast_mut();
            bdev.product_name = c"VDO bdev".as_ptr().cast_mut();
            bdev.write_cache = 1;
            bdev.blocklen = BLOCK_SIZE as u32;
            bdev.phys_blocklen = BLOCK_SIZE as u32;
            bdev.blockcnt = blocks;
            bdev.write_unit_size = 1;
            bdev.acwu = 1;
            bdev.optimal_io_boundary = PREFERRED_BOUNDARY;
            bdev.preferred_write_alignment = 1;
            bdev.preferred_write_granularity = 1;
            bdev.preferred_unmap_alignment = 1;
            bdev.preferred_unmap_granularity = 1;
            bdev.optimal_write_size = 1;
            bdev.max_unmap = LONGEST_UNMAP;
            bdev.max_unmap_segments = 1;
            bdev.max_write_zeroes = LONGEST_UNMAP;
            bdev.reset_io_drain_timeout = sys::SPDK_BDEV_RESET_IO_DRAIN_RECOMMENDED_VALUE as u16;
            if let Some(base) = base {
                bdev.numa = (*base).numa;
            }
            (&raw mut bdev.uuid)
                .cast::<[u8; 16]>()
                .write(uuid.into_bytes());
            bdev.module = super::module();
            bdev.fn_table = &FUNCTIONS;
            sys::spdk_io_device_register(
                raw.cast(),
                Some(channel_opened),
                Some(channel_closed),
                channel::CONTEXT_BYTES,
                (*raw).name.as_ptr(),
            );
            let rc = sys::spdk_bdev_register(bdev);
            if rc != 0 {
                sys::spdk_io_device_unregister(raw.cast(), None);
                return Err((-rc, Box::from_raw(raw)));
            }
            Ok(NonNull::new_unchecked(raw))
        }
    }

    /// SPDK's pointer to the bdev.
    pub fn raw(&self) -> *mut sys::spdk_bdev {
        self.bdev.get()
    }

    /// What it is called.
    pub fn name(&self) -> String {
        self.params.borrow().name.clone()
    }

    /// The volume.
    pub fn volume(&self) -> &Arc<Volume<SpdkHost>> {
        &self.volume
    }

    /// What it was made with.
    pub fn params(&self) -> Create {
        self.params.borrow().clone()
    }

    /// How it came to be.
    pub fn origin(&self) -> Origin {
        self.origin.get()
    }

    /// Somebody has asked for a volume that was found, just as it is, by this or another name: the bdev keeps
    /// its own, and has the other as an alias.
    ///
    /// # Errors
    /// SPDK's errno, positive, when it does not take the alias.
    pub fn adopt(&self, params: Create) -> Result<(), i32> {
        if params.name.as_bytes() != self.name.to_bytes() {
            let alias = CString::new(params.name.as_str()).unwrap_or_default();
            // SAFETY: the bdev is registered, on the app thread; SPDK copies the alias.
            let rc = unsafe { sys::spdk_bdev_alias_add(self.raw(), alias.as_ptr()) };
            if rc != 0 {
                return Err(-rc);
            }
        }
        self.origin.set(Origin::Asked);
        *self.params.borrow_mut() = params;
        Ok(())
    }

    /// The bdev it is on, by the name SPDK has for it.
    pub fn base_name(&self) -> Option<String> {
        self.parts.borrow().as_ref().map(|parts| parts.base.name())
    }

    /// The size of the bdev it is on, in bytes.
    pub fn base_bytes(&self) -> Option<u64> {
        self.parts.borrow().as_ref().map(|parts| parts.base.bytes())
    }

    /// The calls that make it again.
    fn config(&self) -> Vec<Value> {
        volume::config(&self.params.borrow(), &self.volume)
    }

    /// Whether it was found, and will be found again just as it is, so that no configuration needs to name it.
    pub fn is_found_again(&self) -> bool {
        let base = self.base_name().unwrap_or_default();
        let as_found = examine::params_for(&base);
        let plain = json!([{"method": vdo_rpc::methods::BDEV_VDO_CREATE, "params": as_found}]);
        self.origin() == Origin::Found && examine::is_on() && Value::Array(self.config()) == plain
    }

    /// Whether anybody has it open.
    pub fn is_open(&self) -> bool {
        // SAFETY: the list of descriptors is the bdev layer's own; only its emptiness is read, on the app
        // thread. There is no function for it.
        unsafe { !(*self.raw()).internal.open_descs.tqh_first.is_null() }
    }

    /// What it is made of, the first time it is asked.
    pub fn take_parts(&self) -> Option<Parts> {
        self.parts.borrow_mut().take()
    }

    /// Tells the bdev layer, and it everybody who has the bdev open, how large the volume is now.
    ///
    /// # Errors
    /// When it does not take that.
    pub fn tell_size(&self) -> Result<(), RpcError> {
        let blocks = self.volume.layout().logical_blocks;
        // SAFETY: the bdev is registered, on the app thread.
        match unsafe { sys::spdk_bdev_notify_blockcnt_change(self.raw(), blocks) } {
            0 => Ok(()),
            errno => Err(RpcError::errno(
                -errno,
                format!(
                    "name: SPDK does not take {blocks} blocks for bdev \"{}\"",
                    self.name()
                ),
            )),
        }
    }

    /// Has the bdev layer let go of it, and waits until it is gone.
    ///
    /// # Errors
    /// When it is going already, or could not be shut down cleanly.
    pub async fn unregister(this: NonNull<VdoBdev>) -> Result<(), RpcError> {
        unsafe extern "C" fn gone(context: *mut c_void, rc: c_int) {
            // SAFETY: the box that was given to `spdk_bdev_unregister`; SPDK calls once.
            let done = unsafe { Box::from_raw(context.cast::<oneshot::Sender<c_int>>()) };
            let _ = done.send(rc);
        }
        let (done, ended) = oneshot::channel::<c_int>();
        let context = Box::into_raw(Box::new(done)).cast();
        // SAFETY: the bdev is registered, hence there; it may be gone when the call returns.
        let (name, outcome) = unsafe {
            let bdev = this.as_ref();
            let (name, outcome) = (bdev.name(), Rc::clone(&bdev.outcome));
            bdev.volume().give_way(true);
            sys::spdk_bdev_unregister(bdev.raw(), Some(gone), context);
            (name, outcome)
        };
        let rc = ended.await.unwrap_or(-libc::EIO);
        match outcome.borrow_mut().take() {
            Some(error) => Err(error),
            None if rc == -libc::EBUSY => Err(RpcError::new(
                ErrorCode::EBUSY,
                format!("name: bdev \"{name}\" is going away already"),
            )),
            None if rc < 0 => Err(RpcError::errno(
                -rc,
                format!("name: bdev \"{name}\" could not be removed"),
            )),
            None => Ok(()),
        }
    }

    /// Has the bdev layer let go of it, without waiting: its base bdev is going away.
    pub fn unregister_soon(&self) {
        self.volume().give_way(true);
        // SAFETY: the bdev is registered; if it is going already, this does nothing.
        unsafe { sys::spdk_bdev_unregister(self.raw(), None, std::ptr::null_mut()) }
    }
}

/// The vdo bdev called `name`.
///
/// # Errors
/// When there is no bdev of that name, or it is another kind of bdev.
pub fn find(name: &str) -> Result<NonNull<VdoBdev>, RpcError> {
    let raw = lookup(name).ok_or_else(|| RpcError::no_bdev("name", name))?;
    // SAFETY: just looked up, on the app thread.
    unsafe { of(raw) }.ok_or_else(|| RpcError::wrong_kind("name", name, NAME))
}

/// SPDK's bdev called `name`, by its name or an alias.
pub fn lookup(name: &str) -> Option<*mut sys::spdk_bdev> {
    let text = CString::new(name).ok()?;
    // SAFETY: on the app thread, where bdevs come and go.
    let raw = unsafe { sys::spdk_bdev_get_by_name(text.as_ptr()) };
    (!raw.is_null()).then_some(raw)
}

/// The name SPDK has for the bdev called `name`, which may be an alias.
pub fn canonical(name: &str) -> Option<String> {
    // SAFETY: the bdev is there, on the app thread.
    lookup(name).map(|raw| unsafe { desc::text(sys::spdk_bdev_get_name(raw)) })
}

/// The vdo bdev behind one of SPDK's, if it is one.
///
/// # Safety
/// `raw` is a bdev that is there, and this is the app thread.
pub unsafe fn of(raw: *mut sys::spdk_bdev) -> Option<NonNull<VdoBdev>> {
    // SAFETY: the caller's promise.
    unsafe {
        let is_ours = (*raw).module == super::module();
        is_ours.then(|| NonNull::new((*raw).ctxt.cast())).flatten()
    }
}

/// Every vdo bdev, in the order they came.
pub fn all() -> Vec<NonNull<VdoBdev>> {
    let mut all = Vec::new();
    // SAFETY: the app thread may walk the list.
    unsafe {
        let mut raw = sys::spdk_bdev_first();
        while !raw.is_null() {
            all.extend(of(raw));
            raw = sys::spdk_bdev_next(raw);
        }
    }
    all
}

/// # Safety
/// `context` is the `ctxt` of a registered vdo bdev.
unsafe fn bdev<'a>(context: *mut c_void) -> &'a VdoBdev {
    // SAFETY: the caller's promise.
    unsafe { &*context.cast_const().cast::<VdoBdev>() }
}

unsafe extern "C" fn destruct(context: *mut c_void) -> c_int {
    let this = context.cast::<VdoBdev>();
    crate::task::spawn(async move {
        let (gone, wait) = oneshot::channel();
        // SAFETY: the bdev layer has let go of the bdev; it is freed below, after its last use.
        unsafe {
            *(*this).device_gone.borrow_mut() = Some(gone);
            sys::spdk_io_device_unregister(context, Some(device_gone));
        }
        let _ = wait.await;
        // SAFETY: as above.
        let result = life::take_down(unsafe { &*this }).await;
        let rc = result.as_ref().err().map_or(0, |error| error.code.0);
        // SAFETY: as above; the bdev layer reads the bdev for the last time.
        unsafe {
            *(*this).outcome.borrow_mut() = result.err();
            sys::spdk_bdev_destruct_done((*this).raw(), rc);
            drop(Box::from_raw(this));
        }
    });
    // The end is told by `spdk_bdev_destruct_done`.
    1
}

unsafe extern "C" fn device_gone(device: *mut c_void) {
    // SAFETY: `destruct` waits for this before it frees the bdev.
    if let Some(gone) = unsafe { bdev(device) }.device_gone.borrow_mut().take() {
        let _ = gone.send(());
    }
}

unsafe extern "C" fn channel_opened(device: *mut c_void, context: *mut c_void) -> c_int {
    // SAFETY: the device is the bdev.
    let bdev = unsafe { bdev(device) };
    match UserChannel::open(Arc::clone(&bdev.volume), bdev.alignment) {
        Some(opened) => {
            // SAFETY: the context is as large as was asked for.
            unsafe { channel::store(context, opened) };
            0
        }
        None => -libc::ENOMEM,
    }
}

unsafe extern "C" fn channel_closed(_device: *mut c_void, context: *mut c_void) {
    // SAFETY: filled when the channel was opened; no I/O is in flight any more.
    drop(unsafe { channel::take(context) });
}

unsafe extern "C" fn submit_request(
    channel: *mut sys::spdk_io_channel,
    io: *mut sys::spdk_bdev_io,
) {
    // SAFETY: SPDK hands over an I/O of a channel of the module.
    unsafe {
        match u32::from((*io).type_) {
            sys::SPDK_BDEV_IO_TYPE_READ => {
                let bytes = (*io).u.bdev.num_blocks * BLOCK_SIZE as u64;
                sys::spdk_bdev_io_get_buf(io, Some(has_memory), bytes);
            }
            sys::SPDK_BDEV_IO_TYPE_RESET => reset::begin(io),
            _ => has_memory(channel, io, true),
        }
    }
}

unsafe extern "C" fn has_memory(
    channel: *mut sys::spdk_io_channel,
    io: *mut sys::spdk_bdev_io,
    success: bool,
) {
    let io = NonNull::new(io).expect("SPDK hands over an I/O");
    // SAFETY: as in `submit_request`.
    unsafe {
        if success {
            channel::of(channel).submit(io);
        } else {
            sys::spdk_bdev_io_complete(io.as_ptr(), sys::SPDK_BDEV_IO_STATUS_FAILED);
        }
    }
}

unsafe extern "C" fn io_type_supported(
    _context: *mut c_void,
    kind: sys::spdk_bdev_io_type,
) -> bool {
    matches!(
        kind,
        sys::SPDK_BDEV_IO_TYPE_READ
            | sys::SPDK_BDEV_IO_TYPE_WRITE
            | sys::SPDK_BDEV_IO_TYPE_UNMAP
            | sys::SPDK_BDEV_IO_TYPE_WRITE_ZEROES
            | sys::SPDK_BDEV_IO_TYPE_FLUSH
            | sys::SPDK_BDEV_IO_TYPE_RESET
    )
}

unsafe extern "C" fn get_io_channel(context: *mut c_void) -> *mut sys::spdk_io_channel {
    // SAFETY: the bdev's address is its I/O device's.
    unsafe { sys::spdk_get_io_channel(context) }
}

unsafe extern "C" fn dump_info_json(
    context: *mut c_void,
    writer: *mut sys::spdk_json_write_ctx,
) -> c_int {
    // SAFETY: SPDK is writing the object `driver_specific`.
    let (bdev, mut writer) = unsafe { (bdev(context), Writer::new(writer)) };
    let base_name = bdev.params.borrow().base_bdev_name.clone();
    let info = volume::info(&bdev.volume, &base_name);
    writer.member(NAME, &json!(info));
    0
}

unsafe extern "C" fn write_config_json(
    raw: *mut sys::spdk_bdev,
    writer: *mut sys::spdk_json_write_ctx,
) {
    // SAFETY: SPDK is writing a list of calls, for a bdev of the module.
    let (bdev, mut writer) = unsafe { (bdev((*raw).ctxt), Writer::new(writer)) };
    if !bdev.is_found_again() {
        bdev.config().iter().for_each(|call| writer.value(call));
    }
}
