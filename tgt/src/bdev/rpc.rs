//! The `bdev_*` methods that are SPDK's own: make, delete, look at, count, inject.
//!
//! Handlers run on control threads and touch the registry; none needs a reactor. What they take is in
//! [`vdo_rpc::spdk`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vdo_rpc::params::Name;
use vdo_rpc::spdk::{
    AioCreate, DelayCreate, DelayUpdateLatency, ErrorCreate, ErrorInject, GetBdevs, GetIostat,
    InjectErrorType, InjectIoType, LatencyType, MallocCreate, NullCreate, ResetIostat, ResetMode,
    UringCreate,
};
use vdo_rpc::{Parameters, RpcError};

use super::{
    Bdev, BdevError, DelayBdev, ErrorBdev, ErrorType, FileBdev, FileModule, FileOptions, InjectOn,
    Injection, IoKind, Latencies, LatencyKind, MallocBdev, NullBdev, Registry, Reset,
};
use crate::reactor;
use crate::rpc::{Allowed, Dispatcher, Nothing};
use crate::target::Target;

/// How often a wait for a bdev looks for it.
const LOOK: Duration = Duration::from_millis(10);

type Answer = Result<Value, RpcError>;

/// Enters the methods.
pub fn register(dispatcher: &mut Dispatcher, target: &Arc<Target>) {
    let mut method = Registrar { dispatcher, target };
    method.add("bdev_malloc_create", malloc_create);
    method.add("bdev_null_create", null_create);
    method.add("bdev_uring_create", uring_create);
    method.add("bdev_aio_create", aio_create);
    method.add("bdev_error_create", error_create);
    method.add("bdev_error_inject_error", error_inject);
    method.add("bdev_error_resume_pending", error_resume);
    method.add("bdev_delay_create", delay_create);
    method.add("bdev_delay_update_latency", delay_update);
    method.add_waiting("bdev_get_bdevs", get_bdevs);
    method.add("bdev_get_iostat", get_iostat);
    method.add("bdev_reset_iostat", reset_iostat);
    for (name, module) in [("bdev_uring_rescan", "uring"), ("bdev_aio_rescan", "aio")] {
        method.add(name, move |bdevs: &Registry, params: Name| {
            file_rescan(bdevs, &params.name, module)
        });
    }
    // Bdevs are complete when the method that makes them answers: there is nothing to wait for.
    method.add("bdev_wait_for_examine", |_: &Registry, _: Nothing| {
        Ok(json!(true))
    });
    for (name, module) in [
        ("bdev_malloc_delete", "malloc"),
        ("bdev_null_delete", "null"),
        ("bdev_uring_delete", "uring"),
        ("bdev_aio_delete", "aio"),
        ("bdev_error_delete", "error"),
        ("bdev_delay_delete", "delay"),
    ] {
        // Deleting waits until those who have it open let go.
        method.add_waiting(name, move |bdevs: &Registry, params: Name| {
            bdevs.remove(&params.name, module)?;
            Ok(json!(true))
        });
    }
}

/// Enters handlers that need the registry only.
struct Registrar<'a> {
    dispatcher: &'a mut Dispatcher,
    target: &'a Arc<Target>,
}

impl Registrar<'_> {
    fn add<P: Parameters>(
        &mut self,
        name: &'static str,
        handler: impl Fn(&Registry, P) -> Answer + Send + Sync + 'static,
    ) {
        let target = Arc::clone(self.target);
        self.dispatcher
            .method(name, Allowed::Runtime, move |params| {
                handler(&target.bdevs, params)
            });
    }

    fn add_waiting<P: Parameters>(
        &mut self,
        name: &'static str,
        handler: impl Fn(&Registry, P) -> Answer + Send + Sync + 'static,
    ) {
        let target = Arc::clone(self.target);
        let handler = move |params| handler(&target.bdevs, params);
        self.dispatcher
            .waiting_method(name, Allowed::Runtime, handler);
    }
}

/// Enters a bdev and answers with its name.
fn enter(bdevs: &Registry, bdev: impl Bdev) -> Answer {
    let name = bdev.info().name.clone();
    bdevs.add(bdev)?;
    Ok(json!(name))
}

fn malloc_create(bdevs: &Registry, params: MallocCreate) -> Answer {
    let name = params.name.unwrap_or_else(|| bdevs.free_name("Malloc"));
    let mut bdev = MallocBdev::new(name, params.num_blocks, params.block_size, params.uuid)?;
    bdev.keep_memory()?;
    enter(bdevs, bdev)
}

fn null_create(bdevs: &Registry, params: NullCreate) -> Answer {
    enter(
        bdevs,
        NullBdev::new(
            params.name,
            params.num_blocks,
            params.block_size,
            params.uuid,
        )?,
    )
}

fn uring_create(bdevs: &Registry, params: UringCreate) -> Answer {
    let options = FileOptions {
        name: params.name,
        filename: params.filename,
        block_size: params.block_size.filter(|&size| size != 0),
        uuid: params.uuid,
        module: FileModule::Uring,
        engine: None,
    };
    file_create(bdevs, options)
}

fn aio_create(bdevs: &Registry, params: AioCreate) -> Answer {
    let options = FileOptions {
        name: params.name,
        filename: params.filename,
        block_size: params.block_size.filter(|&size| size != 0),
        uuid: params.uuid,
        module: FileModule::Aio {
            readonly: params.readonly,
            fallocate: params.fallocate,
        },
        engine: None,
    };
    file_create(bdevs, options)
}

fn file_create(bdevs: &Registry, options: FileOptions) -> Answer {
    // The name first: a file that this target has open would be reported as in use by another.
    if bdevs.describe(&options.name).is_ok() {
        return Err(BdevError::Exists(options.name).into());
    }
    enter(bdevs, FileBdev::open(options)?)
}

fn file_rescan(bdevs: &Registry, name: &str, module: &'static str) -> Answer {
    let has_grown = bdevs.with(name, module, |bdev: &FileBdev| {
        match bdev.module() == module {
            true => bdev.rescan(),
            false => Err(BdevError::WrongKind {
                name: name.to_owned(),
                found: bdev.info().product_name.to_owned(),
                wanted: module,
            }),
        }
    })??;
    if has_grown {
        bdevs.resized(name);
    }
    Ok(json!(true))
}

fn error_create(bdevs: &Registry, params: ErrorCreate) -> Answer {
    enter(
        bdevs,
        ErrorBdev::new(bdevs, &params.base_name, params.uuid)?,
    )?;
    // As SPDK: the name follows from the base's, and is not told.
    Ok(json!(true))
}

fn error_inject(bdevs: &Registry, params: ErrorInject) -> Answer {
    let on = match params.io_type {
        InjectIoType::Clear => InjectOn::Clear,
        InjectIoType::All => InjectOn::All,
        InjectIoType::Read => InjectOn::Kind(IoKind::Read),
        InjectIoType::Write => InjectOn::Kind(IoKind::Write),
        InjectIoType::Unmap => InjectOn::Kind(IoKind::Unmap),
        InjectIoType::Flush => InjectOn::Kind(IoKind::Flush),
    };
    let error = match params.error_type {
        InjectErrorType::Failure | InjectErrorType::NvmeFailure => ErrorType::Failure,
        InjectErrorType::Pending => ErrorType::Pending,
        InjectErrorType::CorruptData => ErrorType::CorruptData,
        InjectErrorType::Nomem => ErrorType::NoMemory,
    };
    let injection = Injection {
        on,
        error,
        num: params.num,
        queue_depth: params.queue_depth,
        corrupt_offset: params.corrupt_offset,
        corrupt_value: params.corrupt_value,
    };
    bdevs.with(&params.name, "error", |bdev: &ErrorBdev| {
        bdev.inject(injection)
    })??;
    Ok(json!(true))
}

fn error_resume(bdevs: &Registry, params: Name) -> Answer {
    bdevs.with(&params.name, "error", ErrorBdev::resume_pending)?;
    Ok(json!(true))
}

fn delay_create(bdevs: &Registry, params: DelayCreate) -> Answer {
    let latencies = Latencies {
        average_read: params.avg_read_latency,
        p99_read: params.p99_read_latency,
        average_write: params.avg_write_latency,
        p99_write: params.p99_write_latency,
    };
    let bdev = DelayBdev::new(
        bdevs,
        &params.base_bdev_name,
        params.name,
        params.uuid,
        latencies,
    )?;
    enter(bdevs, bdev)
}

fn delay_update(bdevs: &Registry, params: DelayUpdateLatency) -> Answer {
    let kind = match params.latency_type {
        LatencyType::AvgRead => LatencyKind::AverageRead,
        LatencyType::P99Read => LatencyKind::P99Read,
        LatencyType::AvgWrite => LatencyKind::AverageWrite,
        LatencyType::P99Write => LatencyKind::P99Write,
    };
    bdevs.with(&params.delay_bdev_name, "delay", |bdev: &DelayBdev| {
        bdev.set_latency(kind, params.latency_us);
    })?;
    Ok(json!(true))
}

fn get_bdevs(bdevs: &Registry, params: GetBdevs) -> Answer {
    let Some(name) = params.name else {
        // One that goes away meanwhile is not there.
        let all: Vec<Value> = bdevs
            .names()
            .iter()
            .filter_map(|name| bdevs.describe(name).ok())
            .collect();
        return Ok(json!(all));
    };
    let start = Instant::now();
    loop {
        match bdevs.describe(&name) {
            Ok(bdev) => return Ok(json!([bdev])),
            Err(BdevError::NotFound(_))
                if start.elapsed() < Duration::from_millis(params.timeout) =>
            {
                std::thread::sleep(LOOK);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn reset(mode: ResetMode) -> Option<Reset> {
    match mode {
        ResetMode::All => Some(Reset::All),
        ResetMode::Maxmin => Some(Reset::Extremes),
        ResetMode::Error => Some(Reset::Errors),
        ResetMode::None => None,
    }
}

fn get_iostat(bdevs: &Registry, params: GetIostat) -> Answer {
    let wanted = params.wanted();
    let names = wanted.unwrap_or_else(|| bdevs.names());
    // Latencies are in nanoseconds, so that is what a tick is.
    let mut answer = json!({ "tick_rate": 1_000_000_000u64, "ticks": reactor::clock().0 });
    if params.per_channel
        && let [name] = &names[..]
    {
        let channels: Vec<Value> = bdevs
            .channel_totals(name)?
            .iter()
            .map(|(core, totals)| {
                let mut channel = totals.to_json();
                channel["thread_id"] = json!(core);
                channel
            })
            .collect();
        answer["name"] = json!(name);
        answer["channels"] = json!(channels);
    } else {
        let mut all = Vec::new();
        for name in &names {
            let mut bdev = json!({ "name": name });
            let totals = bdevs.totals(name)?.to_json();
            if let (Some(bdev), Value::Object(totals)) = (bdev.as_object_mut(), totals) {
                bdev.extend(totals);
            }
            all.push(bdev);
        }
        answer["bdevs"] = json!(all);
    }
    if let Some(which) = reset(params.reset_mode) {
        for name in &names {
            bdevs.reset_totals(name, which)?;
        }
    }
    Ok(answer)
}

fn reset_iostat(bdevs: &Registry, params: ResetIostat) -> Answer {
    let names = params.name.map_or_else(|| bdevs.names(), |name| vec![name]);
    if let Some(which) = reset(params.mode) {
        for name in &names {
            bdevs.reset_totals(name, which)?;
        }
    }
    Ok(json!(true))
}
