//! What a target says of its volumes at one moment.
//!
//! Both hosts answer the same `bdev_vdo_*` methods. What differs is how a zone thread's processor time is told: under
//! SPDK a zone thread is an SPDK thread, called `vdo_VOLUME_ZONE`, with a time of its own. In the embedded
//! target it is a poller called `vdo VOLUME zone ZONE` on a reactor, whose time it shares with all that runs there.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vdo_rpc::client::RpcClient;
use vdo_rpc::results::VdoInfo;
use vdo_rpc::{ErrorCode, RpcError, methods};

/// A target to be asked.
#[derive(Debug)]
pub struct Target {
    client: RpcClient,
    /// What it calls itself; asked once for each connection.
    version: Option<String>,
}

/// What a target said.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// What the target calls itself.
    pub version: String,
    /// Its volumes, in the order of their names.
    pub volumes: Vec<Volume>,
}

/// What a target said of a volume.
#[derive(Clone, Debug, Default)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Its part of the answer of `bdev_vdo_get_stats`, with each zone's.
    pub statistics: Value,
    /// Its part of the answer of `bdev_get_bdevs`; `None` if it came or went between the two.
    pub info: Option<VdoInfo>,
    /// How the threads that its zones run on spend their time, in the order of the zones.
    pub threads: Vec<Option<ThreadTime>>,
}

/// How a thread has spent its time, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ThreadTime {
    /// It found something to do.
    pub busy: f64,
    /// It found nothing, or slept.
    pub idle: f64,
}

impl Target {
    /// The target that listens at a socket, whether it is there yet or not.
    pub fn new(socket: &Path) -> Target {
        Target {
            client: RpcClient::new(socket, Duration::ZERO),
            version: None,
        }
    }

    /// Asks the target, which may take so long.
    ///
    /// # Errors
    /// When it does not answer in time, is not there, or has no vdo module.
    pub fn sample(&mut self, within: Duration) -> Result<Sample, RpcError> {
        let deadline = Instant::now() + within;
        let connected = self.client.is_connected();
        match self.ask_all(deadline) {
            // It may have been started again since it was last asked.
            Err(error) if connected && error.code == ErrorCode::EIO => self.ask_all(deadline),
            answer => answer,
        }
    }

    fn ask_all(&mut self, deadline: Instant) -> Result<Sample, RpcError> {
        if !self.client.is_connected() {
            self.version = None;
        }
        let statistics = self.ask(
            methods::BDEV_VDO_GET_STATS,
            json!({"per_zone": true}),
            deadline,
        )?;
        let bdevs = self.ask_if_known("bdev_get_bdevs", deadline)?;
        let threads = self.ask_if_known("thread_get_stats", deadline)?;
        let reactors = self.ask_if_known("framework_get_reactors", deadline)?;
        if self.version.is_none() {
            let version = self.ask_if_known("spdk_get_version", deadline)?;
            self.version = version["version"].as_str().map(str::to_owned);
        }
        let times = thread_times(&threads, &reactors);
        let mut volumes: Vec<_> = list(&statistics)
            .map(|statistics| volume(statistics, &bdevs, &times))
            .collect();
        volumes.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Sample {
            version: self.version.clone().unwrap_or_default(),
            volumes,
        })
    }

    fn ask(&mut self, method: &str, params: Value, deadline: Instant) -> Result<Value, RpcError> {
        let left = deadline.saturating_duration_since(Instant::now());
        self.client.set_patience(left);
        self.client.call(method, &params)
    }

    /// The answer of a method that a target need not have.
    fn ask_if_known(&mut self, method: &str, deadline: Instant) -> Result<Value, RpcError> {
        match self.ask(method, Value::Null, deadline) {
            Err(error) if error.code == ErrorCode::METHOD_NOT_FOUND => Ok(Value::Null),
            answer => answer,
        }
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn volume(statistics: &Value, bdevs: &Value, times: &BTreeMap<String, ThreadTime>) -> Volume {
    let name = statistics["name"].as_str().unwrap_or_default().to_owned();
    let bdev = list(bdevs).find(|bdev| bdev["name"] == statistics["name"]);
    let info = bdev.and_then(|bdev| bdev.pointer("/driver_specific/vdo"));
    let time = |zone: usize| {
        let own = times.get(&format!("vdo_{name}_{zone}"));
        own.or_else(|| times.get(&format!("vdo {name} zone {zone}")))
            .copied()
    };
    let zones = statistics["per_zone"].as_array().map_or(0, Vec::len);
    Volume {
        uuid: bdev
            .and_then(|bdev| bdev["uuid"].as_str())
            .unwrap_or_default()
            .to_owned(),
        info: info.and_then(|info| serde_json::from_value(info.clone()).ok()),
        threads: (0..zones).map(time).collect(),
        statistics: statistics.clone(),
        name,
    }
}

/// The time of each thread and of what runs on each reactor, by name.
fn thread_times(threads: &Value, reactors: &Value) -> BTreeMap<String, ThreadTime> {
    let mut times = BTreeMap::new();
    let mut add = |name: &Value, rate: &Value, of: &Value| {
        let rate = rate.as_f64().filter(|rate| *rate > 0.0);
        if let (Some(name), Some(rate)) = (name.as_str(), rate)
            && let (Some(busy), Some(idle)) = (of["busy"].as_f64(), of["idle"].as_f64())
        {
            let (busy, idle) = (busy / rate, idle / rate);
            times.insert(name.to_owned(), ThreadTime { busy, idle });
        }
    };
    for reactor in list(&reactors["reactors"]) {
        for poller in list(&reactor["lw_threads"]) {
            add(&poller["name"], &reactors["tick_rate"], reactor);
        }
    }
    // A thread's own time says more than that of its reactor.
    for thread in list(&threads["threads"]) {
        add(&thread["name"], &threads["tick_rate"], thread);
    }
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_thread_has_its_own_time_or_that_of_the_reactor_it_is_polled_on() {
        let threads =
            json!({"tick_rate": 1000, "threads": [{"name": "vdo_a_0", "busy": 500, "idle": 1500}]});
        let reactors = json!({"tick_rate": 10, "reactors": [
            {"busy": 70, "idle": 30, "lw_threads": [{"name": "vdo_a_0"}, {"name": "vdo b zone 1"}]},
        ]});
        let times = thread_times(&threads, &reactors);
        let time = |busy, idle| Some(ThreadTime { busy, idle });
        let one = volume(
            &json!({"name": "a", "per_zone": [{}]}),
            &Value::Null,
            &times,
        );
        assert_eq!(one.threads, [time(0.5, 1.5)]);
        let other = volume(
            &json!({"name": "b", "per_zone": [{}, {}]}),
            &Value::Null,
            &times,
        );
        assert_eq!(other.threads, [None, time(7.0, 3.0)]);
    }
}
