//! All bdevs by name: who has them open, who claimed them, and how they go away.
//!
//! 1. A bdev is *added*; its name and UUID must be free.
//! 2. It is *opened*: the descriptor keeps it alive, is counted, and may hold the claim. Opening for
//!    writing is refused while another module has claimed the bdev; a claim is refused while another
//!    writer has it open.
//! 3. Channels are opened from the descriptor, one per thread, and keep the descriptor alive.
//! 4. It is *removed*: each opener is told through its hook, no new one is let in, and when the last
//!    descriptor is gone the name is free. An opener without a hook cannot let go, so removal is refused.
//!
//! Only control threads come here; the data path uses channels.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::{Bdev, BdevError, BdevInfo, Channel, IoKind, IoStat, IoTotals};
use crate::notify::{self, Notifications};
use crate::reactor::ReactorHandle;

/// How long a removal waits for openers to let go.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(30);

/// Called once, on a control thread, when an open bdev is being removed; it must see to it that the
/// descriptor and its channels are dropped, without waiting for that.
pub type RemoveHook = Box<dyn Fn() + Send + Sync>;

/// Whether an opener wants to be the only writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// No.
    None,
    /// Nobody else may open it for writing.
    ExclusiveWrite,
}

/// How a bdev is opened.
pub struct OpenOptions {
    /// Who opens it, for messages ("vdo", "nbd export /run/x.sock").
    pub user: String,
    /// Whether it will be written.
    pub write: bool,
    /// Whether nobody else may write it.
    pub claim: Claim,
    /// How to make the opener let go; `None` if it cannot.
    pub on_remove: Option<RemoveHook>,
}

impl OpenOptions {
    /// To read and write without a claim.
    pub fn read_write(user: impl Into<String>) -> OpenOptions {
        OpenOptions {
            user: user.into(),
            write: true,
            claim: Claim::None,
            on_remove: None,
        }
    }

    /// To read only.
    pub fn read_only(user: impl Into<String>) -> OpenOptions {
        OpenOptions {
            user: user.into(),
            write: false,
            claim: Claim::None,
            on_remove: None,
        }
    }

    /// To read and write as the only writer.
    pub fn claimed(user: impl Into<String>) -> OpenOptions {
        OpenOptions {
            user: user.into(),
            write: true,
            claim: Claim::ExclusiveWrite,
            on_remove: None,
        }
    }

    /// The same, with a way to make the opener let go.
    pub fn on_remove(mut self, hook: impl Fn() + Send + Sync + 'static) -> OpenOptions {
        self.on_remove = Some(Box::new(hook));
        self
    }
}

impl fmt::Debug for OpenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "open by {} (write {}, claim {:?})",
            self.user, self.write, self.claim
        )
    }
}

/// A bdev in the registry.
struct Node {
    bdev: Box<dyn Bdev>,
    state: Mutex<NodeState>,
    closed: Condvar,
}

#[derive(Default)]
struct NodeState {
    opens: Vec<(u64, Arc<OpenOptions>)>,
    next_open: u64,
    removing: bool,
    /// The counters of living channels, with the core of each one's reactor.
    stats: Vec<(usize, Arc<IoStat>)>,
    /// The sums of channels that are gone.
    retired: IoTotals,
    /// What a reset subtracts.
    base: IoTotals,
}

impl NodeState {
    fn claimant(&self) -> Option<&OpenOptions> {
        self.opens
            .iter()
            .map(|(_, open)| &**open)
            .find(|open| open.claim == Claim::ExclusiveWrite)
    }

    fn totals(&self) -> IoTotals {
        let mut sum = self.retired.clone();
        for (_, stat) in &self.stats {
            sum.add(&stat.totals());
        }
        sum
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    fn answers_to(&self, name: &str) -> bool {
        let info = self.bdev.info();
        info.name == name || uuid::Uuid::parse_str(name).is_ok_and(|uuid| uuid == info.uuid)
    }

    fn open(self: &Arc<Self>, options: OpenOptions) -> Result<BdevDesc, BdevError> {
        let mut state = lock(&self.state);
        let name = || self.bdev.info().name.clone();
        if state.removing {
            return Err(BdevError::NotFound(name()));
        }
        if options.write
            && let Some(claimant) = state.claimant()
        {
            return Err(BdevError::Claimed {
                name: name(),
                module: claimant.user.clone(),
            });
        }
        if options.claim == Claim::ExclusiveWrite
            && let Some((_, writer)) = state.opens.iter().find(|(_, open)| open.write)
        {
            return Err(BdevError::Busy {
                name: name(),
                user: writer.user.clone(),
            });
        }
        let id = state.next_open;
        state.next_open += 1;
        state.opens.push((id, Arc::new(options)));
        Ok(BdevDesc(Arc::new(Open {
            node: Arc::clone(self),
            id,
        })))
    }

    fn to_json(&self) -> Value {
        let info = self.bdev.info();
        let state = lock(&self.state);
        let mut kinds = Map::new();
        for kind in IoKind::ALL {
            kinds.insert(kind.name().to_owned(), json!(info.supports.contains(kind)));
        }
        // What SPDK has besides, and this target has not.
        for name in [
            "reset",
            "nvme_admin",
            "nvme_io",
            "nvme_io_md",
            "zcopy",
            "get_zone_info",
            "zone_management",
            "zone_append",
            "compare",
            "compare_and_write",
            "abort",
            "seek_hole",
            "seek_data",
            "copy",
            "nvme_iov_md",
        ] {
            kinds.insert(name.to_owned(), json!(false));
        }
        let mut object = json!({
            "name": info.name,
            "aliases": [info.uuid.to_string()],
            "product_name": info.product_name,
            "block_size": info.block_size,
            "num_blocks": info.num_blocks.get(),
            "uuid": info.uuid.to_string(),
            "assigned_rate_limits": {
                "rw_ios_per_sec": 0, "rw_mbytes_per_sec": 0, "r_mbytes_per_sec": 0, "w_mbytes_per_sec": 0
            },
            "claimed": false,
            "zoned": false,
            "supported_io_types": kinds,
            "driver_specific": self.bdev.driver_specific(),
        });
        if state.claimant().is_some() {
            object["claimed"] = json!(true);
            object["claim_type"] = json!("exclusive_write");
        }
        object
    }
}

/// One opening of a bdev; ends when the last descriptor and channel of it are dropped.
struct Open {
    node: Arc<Node>,
    id: u64,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = lock(&self.node.state);
        state.opens.retain(|(id, _)| *id != self.id);
        self.node.closed.notify_all();
    }
}

/// An open bdev. A clone is the same opening; channels keep it open too.
#[derive(Clone)]
pub struct BdevDesc(Arc<Open>);

impl fmt::Debug for BdevDesc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "open {:?}", self.bdev())
    }
}

impl BdevDesc {
    /// The bdev.
    pub fn bdev(&self) -> &dyn Bdev {
        &*self.0.node.bdev
    }

    /// What the bdev says of itself.
    pub fn info(&self) -> &BdevInfo {
        self.bdev().info()
    }

    /// A channel for the thread of `reactor`, which alone may use it from then on. May be called on
    /// any thread.
    ///
    /// # Errors
    /// When the bdev cannot open one.
    pub fn open_channel(&self, reactor: &ReactorHandle) -> Result<Channel, BdevError> {
        let device = self.bdev().open_device(reactor)?;
        let stat = Arc::new(IoStat::default());
        let mut state = lock(&self.0.node.state);
        state.stats.push((reactor.core(), Arc::clone(&stat)));
        let writable = state
            .opens
            .iter()
            .any(|(id, open)| *id == self.0.id && open.write);
        drop(state);
        Ok(Channel::new(device, writable, self.clone(), stat))
    }

    /// Takes a channel's counters out of the living ones.
    pub(super) fn retire(&self, stat: &Arc<IoStat>) {
        let mut state = lock(&self.0.node.state);
        state.stats.retain(|(_, other)| !Arc::ptr_eq(other, stat));
        state.retired.add(&stat.totals());
    }
}

/// Which counters are begun anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reset {
    /// All.
    All,
    /// The longest and shortest latencies.
    Extremes,
    /// The counts of errors.
    Errors,
}

/// All bdevs, in the order they were made.
#[derive(Default)]
pub struct Registry {
    nodes: Mutex<Vec<Arc<Node>>>,
    /// Who is told which bdevs come and go.
    notifications: Arc<Notifications>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(lock(&self.nodes).iter().map(|node| &node.bdev.info().name))
            .finish()
    }
}

fn check_not_empty(name: &str) -> Result<(), BdevError> {
    match name.is_empty() {
        true => Err(BdevError::Invalid(
            "name is empty; a bdev needs one".to_owned(),
        )),
        false => Ok(()),
    }
}

impl Registry {
    /// One without bdevs, that tells which come and go.
    pub fn telling(notifications: Arc<Notifications>) -> Registry {
        Registry {
            nodes: Mutex::default(),
            notifications,
        }
    }

    /// A bdev has become larger.
    pub fn resized(&self, name: &str) {
        self.notifications.send(notify::BDEV_RESIZE, name);
    }

    fn find(&self, name: &str) -> Result<Arc<Node>, BdevError> {
        let nodes = lock(&self.nodes);
        let found = nodes.iter().find(|node| node.answers_to(name));
        found
            .cloned()
            .ok_or_else(|| BdevError::NotFound(name.to_owned()))
    }

    /// Whether a bdev could be added under a name now, for those who do much before they add it.
    ///
    /// # Errors
    /// When the name is empty or taken.
    pub fn check_name(&self, name: &str) -> Result<(), BdevError> {
        check_not_empty(name)?;
        match lock(&self.nodes).iter().any(|node| node.answers_to(name)) {
            true => Err(BdevError::Exists(name.to_owned())),
            false => Ok(()),
        }
    }

    /// Enters a bdev under its name.
    ///
    /// # Errors
    /// When the name or the UUID is taken.
    pub fn add(&self, bdev: impl Bdev) -> Result<(), BdevError> {
        let info = bdev.info();
        check_not_empty(&info.name)?;
        let mut nodes = lock(&self.nodes);
        for alias in [info.name.clone(), info.uuid.to_string()] {
            if nodes.iter().any(|node| node.answers_to(&alias)) {
                return Err(BdevError::Exists(alias));
            }
        }
        log::debug!(
            "bdev {:?}: {} blocks of {} bytes",
            info.name,
            info.num_blocks.get(),
            info.block_size
        );
        let name = info.name.clone();
        nodes.push(Arc::new(Node {
            bdev: Box::new(bdev),
            state: Mutex::default(),
            closed: Condvar::new(),
        }));
        self.notifications.send(notify::BDEV_REGISTER, &name);
        Ok(())
    }

    /// A name nobody has, made of `prefix` and the first free number.
    pub fn free_name(&self, prefix: &str) -> String {
        let nodes = lock(&self.nodes);
        (0u64..)
            .map(|number| format!("{prefix}{number}"))
            .find(|name| !nodes.iter().any(|node| node.answers_to(name)))
            .expect("there are more numbers than bdevs")
    }

    /// Opens the bdev of that name or UUID.
    ///
    /// # Errors
    /// When there is none, or someone else's claim or use forbids it.
    pub fn open(&self, name: &str, options: OpenOptions) -> Result<BdevDesc, BdevError> {
        self.find(name)?.open(options)
    }

    /// Calls `with` on the bdev of that name, if it is a `T`.
    ///
    /// # Errors
    /// When there is none of that name, or it is of another kind; `wanted` names the kind.
    pub fn with<T: Bdev, R>(
        &self,
        name: &str,
        wanted: &'static str,
        with: impl FnOnce(&T) -> R,
    ) -> Result<R, BdevError> {
        let node = self.find(name)?;
        match node.bdev.as_any().downcast_ref::<T>() {
            Some(bdev) => Ok(with(bdev)),
            None => Err(BdevError::WrongKind {
                name: name.to_owned(),
                found: node.bdev.info().product_name.to_owned(),
                wanted,
            }),
        }
    }

    /// Takes a bdev of `module` out and waits until everybody let go of it. Not to be called on a
    /// reactor, for those who let go may need it.
    ///
    /// # Errors
    /// When there is none, it is of another module, or an opener cannot or does not let go.
    pub fn remove(&self, name: &str, module: &'static str) -> Result<(), BdevError> {
        let node = self.find(name)?;
        if node.bdev.module() != module {
            return Err(BdevError::WrongKind {
                name: name.to_owned(),
                found: node.bdev.info().product_name.to_owned(),
                wanted: module,
            });
        }
        let busy = |user: &str| BdevError::Busy {
            name: name.to_owned(),
            user: user.to_owned(),
        };
        let mut state = lock(&node.state);
        if state.removing {
            return Err(BdevError::NotFound(name.to_owned()));
        }
        if let Some((_, open)) = state
            .opens
            .iter()
            .find(|(_, open)| open.on_remove.is_none())
        {
            return Err(busy(&open.user));
        }
        state.removing = true;
        let openers: Vec<_> = state
            .opens
            .iter()
            .map(|(_, open)| Arc::clone(open))
            .collect();
        drop(state);
        for hook in openers.iter().filter_map(|open| open.on_remove.as_ref()) {
            hook();
        }
        let (mut state, timeout) = node
            .closed
            .wait_timeout_while(lock(&node.state), REMOVE_TIMEOUT, |state| {
                !state.opens.is_empty()
            })
            .unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out()
            && let Some((_, open)) = state.opens.first()
        {
            let user = open.user.clone();
            state.removing = false;
            return Err(busy(&user));
        }
        drop(state);
        let name = &node.bdev.info().name;
        self.notifications.send(notify::BDEV_UNREGISTER, name);
        lock(&self.nodes).retain(|other| !Arc::ptr_eq(other, &node));
        Ok(())
    }

    /// Every name, in the order the bdevs were made.
    pub fn names(&self) -> Vec<String> {
        lock(&self.nodes)
            .iter()
            .map(|node| node.bdev.info().name.clone())
            .collect()
    }

    /// What `bdev_get_bdevs` says of one bdev.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn describe(&self, name: &str) -> Result<Value, BdevError> {
        Ok(self.find(name)?.to_json())
    }

    /// The counters of one bdev since they were last reset.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn totals(&self, name: &str) -> Result<IoTotals, BdevError> {
        let node = self.find(name)?;
        let state = lock(&node.state);
        Ok(state.totals().since(&state.base))
    }

    /// The counters of each living channel of one bdev, with the core of its reactor.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn channel_totals(&self, name: &str) -> Result<Vec<(usize, IoTotals)>, BdevError> {
        let node = self.find(name)?;
        let state = lock(&node.state);
        let totals = state
            .stats
            .iter()
            .map(|(core, stat)| (*core, stat.totals()));
        Ok(totals.collect())
    }

    /// Begins counters of one bdev anew.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn reset_totals(&self, name: &str, which: Reset) -> Result<(), BdevError> {
        let node = self.find(name)?;
        let mut state = lock(&node.state);
        match which {
            Reset::All => state.base = state.totals(),
            Reset::Errors => state.base.errors = state.totals().errors,
            Reset::Extremes => {}
        }
        if which != Reset::Errors {
            state.retired.reset_extremes();
            for (_, stat) in &state.stats {
                stat.reset_extremes();
            }
        }
        Ok(())
    }

    /// The calls that make every bdev again, in order.
    pub fn config(&self) -> Vec<Value> {
        let nodes = lock(&self.nodes).clone();
        nodes.iter().flat_map(|node| node.bdev.config()).collect()
    }

    /// Has every bdev let go of what it holds back on purpose; the target is ending.
    pub fn let_go_all(&self) {
        let nodes = lock(&self.nodes).clone();
        for node in &nodes {
            node.bdev.let_go();
        }
    }

    /// Drops every bdev, the youngest first: a virtual bdev before what it lies on.
    pub fn close_all(&self) {
        loop {
            let Some(node) = lock(&self.nodes).pop() else {
                break;
            };
            let state = lock(&node.state);
            if let Some((_, open)) = state.opens.first() {
                log::warn!(
                    "bdev {:?} is still in use by {}",
                    node.bdev.info().name,
                    open.user
                );
            }
            drop(state);
        }
    }
}
