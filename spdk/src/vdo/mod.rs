//! The vdo bdev module.
//!
//! - [`bdev`]: a vdo bdev as SPDK's bdev layer sees it: its functions, its configuration, its figures
//! - [`life`]: how a volume comes up on a base bdev and goes down
//! - [`examine`]: how volumes are found on new bdevs
//! - [`spoken_for`]: on which of them they are not, because a configuration will name them
//! - [`channel`], [`request`]: a user's channel and I/Os
//! - [`zone`]: zone threads as SPDK threads
//! - [`base`]: I/O to the base bdev
//! - [`nvme_flush`]: that a flush of it is one
//! - [`reset`]: what a reset waits for
//! - [`methods`]: the `bdev_vdo_*` methods
//!
//! Volumes are made, found, asked and unmade on SPDK's app thread, where the bdev layer and the RPC server live; what
//! takes time there is an `async` function. Data goes from a user's thread to zone threads and back by way of queues
//! without locks.

pub mod base;
pub mod bdev;
mod call;
pub mod channel;
pub mod examine;
pub mod life;
pub mod methods;
mod nvme_flush;
pub mod request;
pub mod reset;
pub mod spoken_for;
mod stack;
mod trace;
pub mod zone;

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::c_int;
use std::sync::atomic;
use std::time::Duration;

use futures_channel::oneshot;
use serde_json::json;
use spdk_sys as sys;
use vdo::seam::Host;
use vdo_rpc::events;

use crate::json::Writer;
use crate::thread::Thread;
use crate::{logging, notify, task};

/// The kinds of things SPDK gives the engine.
pub struct SpdkHost;

impl Host for SpdkHost {
    type Channel = base::SpdkChannel;
    type Request = request::VdoRequest;
    type Waker = zone::SpdkWaker;
}

/// The module's name in claims and in `driver_specific`.
pub const NAME: &str = "vdo";

struct ModuleCell(UnsafeCell<sys::spdk_bdev_module>);

// SAFETY: handed to SPDK before `main`, and SPDK's from then on.
unsafe impl Sync for ModuleCell {}

static MODULE: ModuleCell = ModuleCell(UnsafeCell::new({
    // SAFETY: null pointers, zero and false are what C leaves in members that are not named.
    let mut module: sys::spdk_bdev_module = unsafe { std::mem::zeroed() };
    module.name = c"vdo".as_ptr();
    module.module_init = Some(init);
    module.fini_start = Some(fini_start);
    module.module_fini = Some(fini);
    module.async_fini = true;
    module.get_ctx_size = Some(context_bytes);
    module.examine_disk = Some(examine::examine_disk);
    module.config_json = Some(config_json);
    module
}));

/// SPDK's pointer to the module.
pub fn module() -> *mut sys::spdk_bdev_module {
    MODULE.0.get()
}

extern "C" fn enter() {
    // SAFETY: the module is static, and entered once.
    unsafe { sys::spdk_bdev_module_list_add(module()) }
    logging::register_flag();
    methods::register();
    trace::register();
    nvme_flush::enable();
}

/// Runs before `main`, as the constructors of SPDK's own modules do.
#[used]
#[unsafe(link_section = ".init_array")]
static ENTER: extern "C" fn() = enter;

/// Called by a program so that the linker keeps the module.
pub fn linked() {
    std::hint::black_box(ENTER);
}

unsafe extern "C" fn init() -> c_int {
    if let Err(error) = logging::install() {
        eprintln!("vdo: its messages go where the program's own log goes: {error}");
    }
    events::TYPES.into_iter().for_each(notify::register);
    0
}

unsafe extern "C" fn context_bytes() -> c_int {
    request::VdoRequest::STATE_BYTES as c_int
}

/// All users of bdevs are about to let go of them: long requests to volumes give way. On the app thread.
pub fn give_way() {
    for bdev in bdev::all() {
        // SAFETY: it is in the list; not kept.
        unsafe { bdev.as_ref() }.volume().give_way(true);
    }
}

unsafe extern "C" fn fini_start() {
    state().is_ending.set(true);
}

unsafe extern "C" fn fini() {
    // All bdevs are gone; what is not is a volume that was coming up when its base bdev went.
    task::spawn(async {
        while !state().at_work.borrow().is_empty() {
            task::sleep(Duration::from_millis(1)).await;
        }
        // SAFETY: the answer to `module_fini`, on the app thread.
        unsafe { sys::spdk_bdev_module_fini_done() }
    });
}

unsafe extern "C" fn config_json(writer: *mut sys::spdk_json_write_ctx) -> c_int {
    let examines = state().examines.get();
    // SPDK writes this before any bdev, and these are to be left alone when they come.
    let except = if examines {
        spoken_for::in_use()
    } else {
        Vec::new()
    };
    if !examines || !except.is_empty() {
        let params = methods::Examine {
            enable: examines,
            except,
        };
        let call = json!({"method": methods::SET_EXAMINE, "params": params});
        // SAFETY: SPDK is writing a list of calls.
        unsafe { Writer::new(writer) }.value(&call);
    }
    0
}

/// What the module knows, on the app thread.
pub struct State {
    /// Whether new bdevs are looked at.
    pub examines: Cell<bool>,
    /// Bdevs whose volumes are to be named.
    pub spoken_for: RefCell<spoken_for::SpokenFor>,
    /// Whether SPDK is shutting down.
    pub is_ending: Cell<bool>,
    /// Names of bdevs that are being made.
    coming: RefCell<HashSet<String>>,
    /// Base bdevs that somebody works on, with those who wait for their turn.
    at_work: RefCell<HashMap<String, VecDeque<oneshot::Sender<()>>>>,
}

struct AppThreadOnly(State);

// SAFETY: reached by `state` only, which checks the thread.
unsafe impl Sync for AppThreadOnly {}
// SAFETY: as above.
unsafe impl Send for AppThreadOnly {}

/// The module's state.
///
/// # Panics
/// On another thread than SPDK's app thread.
pub fn state() -> &'static State {
    static STATE: std::sync::LazyLock<AppThreadOnly> = std::sync::LazyLock::new(|| {
        AppThreadOnly(State {
            examines: Cell::new(true),
            spoken_for: RefCell::new(spoken_for::SpokenFor::new()),
            is_ending: Cell::new(false),
            coming: RefCell::new(HashSet::new()),
            at_work: RefCell::new(HashMap::new()),
        })
    });
    assert!(
        Thread::is_app(),
        "the state of the vdo module belongs to the app thread"
    );
    &STATE.0
}

/// A name that is being given to a bdev; free again when dropped.
pub struct ComingName(String);

impl Drop for ComingName {
    fn drop(&mut self) {
        state().coming.borrow_mut().remove(&self.0);
    }
}

/// A turn at a base bdev; the next in line has it when this is dropped.
pub struct Turn(String);

impl Drop for Turn {
    fn drop(&mut self) {
        let mut at_work = state().at_work.borrow_mut();
        let next = at_work.get_mut(&self.0).and_then(VecDeque::pop_front);
        match next {
            Some(next) => drop(next.send(())),
            None => drop(at_work.remove(&self.0)),
        }
    }
}

impl State {
    /// Keeps `name` for a bdev that is being made; `None` if somebody else does already.
    pub fn reserve(&self, name: &str) -> Option<ComingName> {
        let is_new = self.coming.borrow_mut().insert(name.to_owned());
        is_new.then(|| ComingName(name.to_owned()))
    }

    /// Waits until nobody else works on the bdev called `base`.
    pub async fn turn(&self, base: &str) -> Turn {
        let wait = {
            let mut at_work = self.at_work.borrow_mut();
            match at_work.get_mut(base) {
                Some(line) => {
                    let (go, wait) = oneshot::channel();
                    line.push_back(go);
                    Some(wait)
                }
                None => {
                    at_work.insert(base.to_owned(), VecDeque::new());
                    None
                }
            }
        };
        if let Some(wait) = wait {
            // The line is kept as long as somebody has the turn, and every turn passes it on.
            let _ = wait.await;
        }
        Turn(base.to_owned())
    }
}
