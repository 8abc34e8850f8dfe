//! The server on a real socket, against clients of every kind.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vdo_rpc::{Parameters, RpcError};

use super::*;

#[derive(serde::Deserialize)]
struct Any(Value);

impl Parameters for Any {}

/// A server with a few methods, its socket in a folder of its own.
struct Fixture {
    folder: tempfile::TempDir,
    gate: Arc<(Mutex<bool>, Condvar)>,
    runtime: Arc<AtomicBool>,
    server: Option<RpcServer>,
}

impl Fixture {
    fn new() -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let runtime = Arc::new(AtomicBool::new(true));
        let mut dispatcher = Dispatcher::new();
        dispatcher.method("echo", Allowed::Always, |params: Any| Ok(params.0));
        dispatcher.method("large", Allowed::Always, |_: Nothing| {
            Ok("x".repeat(3_000_000))
        });
        dispatcher.method("runtime_only", Allowed::Runtime, |_: Nothing| Ok(true));
        dispatcher.method(
            "fail",
            Allowed::Always,
            |_: Nothing| -> Result<bool, RpcError> { Err(RpcError::no_bdev("name", "x")) },
        );
        for (name, waits) in [("slow", false), ("wait", true)] {
            let gate = Arc::clone(&gate);
            let handler = move |_: Nothing| {
                let opened = gate.0.lock().unwrap();
                drop(gate.1.wait_while(opened, |opened| !*opened).unwrap());
                Ok(name)
            };
            if waits {
                dispatcher.waiting_method(name, Allowed::Always, handler);
            } else {
                dispatcher.method(name, Allowed::Always, handler);
            }
        }
        let state = {
            let runtime = Arc::clone(&runtime);
            move || {
                if runtime.load(Ordering::Relaxed) {
                    State::Runtime
                } else {
                    State::Startup
                }
            }
        };
        let path = folder.path().join("rpc.sock");
        let server =
            RpcServer::start(&path, ServerOptions::default(), Arc::new(dispatcher), state).unwrap();
        Fixture {
            folder,
            gate,
            runtime,
            server: Some(server),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("rpc.sock")
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
            .set_write_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream
    }

    fn open_gate(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }

    /// Sends `text`, shuts the sending side, and returns every answer until the server closes.
    fn exchange(&self, text: &str) -> Vec<Value> {
        let mut stream = self.connect();
        stream.write_all(text.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        rest(&mut stream)
    }

    /// Whether a fresh client is served.
    fn works(&self) -> bool {
        self.exchange(&call(1, "echo", json!({"a": 1}))) == [result(1, json!({"a": 1}))]
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.open_gate();
        if let Some(server) = self.server.take() {
            server.stop();
        }
    }
}

fn call(id: u64, method: &str, params: Value) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()
}

fn result(id: u64, result: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

/// All answers until the server closes.
fn rest(stream: &mut UnixStream) -> Vec<Value> {
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    serde_json::Deserializer::from_slice(&text)
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

/// One answer.
fn receive(stream: &mut UnixStream) -> Value {
    let mut text = Vec::new();
    let mut byte = [0];
    while byte[0] != b'\n' {
        stream.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    serde_json::from_slice(&text).unwrap()
}

fn code(answer: &Value) -> i64 {
    answer["error"]["code"].as_i64().unwrap_or(0)
}

#[test]
fn requests_back_to_back_are_answered_in_order() {
    let fixture = Fixture::new();
    let text: String = (0..500)
        .map(|id| call(id, "echo", json!({"n": id})))
        .collect();
    let answers = fixture.exchange(&text);
    let expected: Vec<Value> = (0..500).map(|id| result(id, json!({"n": id}))).collect();
    assert_eq!(answers, expected);
}

#[test]
fn a_request_may_come_in_single_bytes() {
    let fixture = Fixture::new();
    let mut stream = fixture.connect();
    for byte in call(1, "echo", json!({"text": "}{\"\\ä"})).as_bytes() {
        stream.write_all(&[*byte]).unwrap();
    }
    assert_eq!(receive(&mut stream)["result"], json!({"text": "}{\"\\ä"}));
}

#[test]
fn a_batch_is_answered_by_one_array() {
    let fixture = Fixture::new();
    let batch = json!([
        {"jsonrpc": "2.0", "method": "echo", "params": {"a": 1}, "id": 1},
        {"jsonrpc": "2.0", "method": "echo", "params": {"a": 2}},
        {"jsonrpc": "2.0", "method": "nothing", "id": 3},
        5,
    ]);
    let answers = fixture.exchange(&batch.to_string());
    assert_eq!(answers.len(), 1);
    let answers = answers[0].as_array().unwrap();
    assert_eq!(answers[0], result(1, json!({"a": 1})));
    assert_eq!((code(&answers[1]), &answers[1]["id"]), (-32601, &json!(3)));
    assert_eq!(
        (code(&answers[2]), &answers[2]["id"]),
        (-32600, &Value::Null)
    );
    assert_eq!(
        answers.len(),
        3,
        "a notification has no place in the answer"
    );
}

#[test]
fn an_empty_batch_is_an_error_and_one_of_notifications_gets_no_answer() {
    let fixture = Fixture::new();
    let answers = fixture.exchange("[]");
    assert_eq!((answers.len(), code(&answers[0])), (1, -32600));
    assert_eq!(
        fixture.exchange(r#"[{"method":"echo"},{"method":"echo"}]"#),
        Vec::<Value>::new()
    );
    assert_eq!(
        fixture.exchange(r#"{"method":"echo"}"#),
        Vec::<Value>::new()
    );
}

#[test]
fn errors_carry_their_code_and_the_id() {
    let fixture = Fixture::new();
    let answers = fixture.exchange(&(call(1, "fail", json!({})) + &call(2, "nothing", json!({}))));
    assert_eq!(
        answers[0]["error"],
        json!({"code": -19, "message": "name: there is no bdev \"x\""})
    );
    assert_eq!(
        answers[1]["error"],
        json!({"code": -32601, "message": "Method not found"})
    );
    assert_eq!(answers[1]["id"], 2);
    fixture.runtime.store(false, Ordering::Relaxed);
    assert_eq!(
        code(&fixture.exchange(&call(1, "runtime_only", json!({})))[0]),
        -1
    );
}

#[test]
fn garbage_is_answered_and_closed_and_hurts_nobody_else() {
    let fixture = Fixture::new();
    for garbage in [
        "}",
        "\u{0}\u{1}",
        "hello",
        "{]",
        "{\"method\": }",
        "GET / HTTP/1.1\r\n\r\n",
    ] {
        let answers = fixture.exchange(garbage);
        assert_eq!(answers.len(), 1, "{garbage}");
        assert_eq!(code(&answers[0]), -32700, "{garbage}");
        let mut stream = fixture.connect();
        stream.write_all(garbage.as_bytes()).unwrap();
        assert_eq!(
            rest(&mut stream).len(),
            1,
            "{garbage:?} closes the connection"
        );
    }
    let answers =
        fixture.exchange(&(call(1, "echo", json!({})) + "}" + &call(2, "echo", json!({}))));
    assert_eq!(
        answers.len(),
        2,
        "what came before is answered, what comes after is not: {answers:?}"
    );
    let before = answers.iter().find(|answer| answer["id"] == 1).unwrap();
    assert_eq!(before["result"], json!({}));
    assert!(fixture.works());
}

#[test]
fn huge_and_deep_requests_are_refused() {
    let fixture = Fixture::new();
    let mut stream = fixture.connect();
    let text = call(1, "echo", json!({"a": "x".repeat(LONGEST_REQUEST)}));
    // The server may close before all is written.
    let _ = stream.write_all(text.as_bytes());
    let mut answer = vec![0; 4096];
    let count = stream.read(&mut answer).unwrap();
    let answer: Value = serde_json::from_slice(&answer[..count]).unwrap();
    assert_eq!(code(&answer), -32700);
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("262144"),
        "{answer}"
    );
    let deep = "[".repeat(100_000);
    let mut stream = fixture.connect();
    let _ = stream.write_all(deep.as_bytes());
    assert_eq!(code(&receive(&mut stream)), -32700);
    assert_eq!(
        fixture.exchange(&"[".repeat(30)).len(),
        1,
        "an unfinished request is answered, too"
    );
    let most = json!({"a": "x".repeat(LONGEST_REQUEST - 100)});
    assert_eq!(
        fixture.exchange(&call(1, "echo", most.clone())),
        [result(1, most)]
    );
    assert!(fixture.works());
}

#[test]
fn a_slow_request_holds_up_its_own_client_only() {
    let fixture = Fixture::new();
    let mut slow = fixture.connect();
    slow.write_all((call(1, "slow", json!({})) + &call(2, "echo", json!({}))).as_bytes())
        .unwrap();
    assert!(fixture.works());
    slow.set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    assert!(
        slow.read(&mut [0]).is_err(),
        "nothing overtakes the slow request"
    );
    slow.set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    fixture.open_gate();
    assert_eq!(receive(&mut slow), result(1, json!("slow")));
    assert_eq!(receive(&mut slow), result(2, json!({})));
}

#[test]
fn a_request_that_waits_lets_others_of_its_client_pass() {
    let fixture = Fixture::new();
    let mut stream = fixture.connect();
    stream
        .write_all((call(1, "wait", json!({})) + &call(2, "echo", json!({}))).as_bytes())
        .unwrap();
    assert_eq!(receive(&mut stream), result(2, json!({})));
    fixture.open_gate();
    assert_eq!(receive(&mut stream), result(1, json!("wait")));
}

#[test]
fn clients_that_never_read_are_held_back_and_others_are_not() {
    let fixture = Fixture::new();
    let mut deaf = fixture.connect();
    deaf.set_write_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let text: String = (0..100_000)
        .map(|id| call(id, "large", json!({})))
        .collect();
    assert!(
        deaf.write_all(text.as_bytes()).is_err(),
        "the server stopped reading"
    );
    assert!(fixture.works());
    // It gets what it asked for once it listens: the first answers are whole and in order.
    for id in 0..3 {
        assert_eq!(receive(&mut deaf)["id"], id);
    }
}

#[test]
fn a_client_that_vanishes_with_requests_under_way_leaves_no_trace() {
    let fixture = Fixture::new();
    for _ in 0..20 {
        let mut stream = fixture.connect();
        stream
            .write_all((call(1, "slow", json!({})) + &call(2, "echo", json!({}))).as_bytes())
            .unwrap();
        drop(stream);
    }
    fixture.open_gate();
    assert!(fixture.works());
}

#[test]
fn more_clients_than_places_wait_until_one_leaves() {
    let fixture = Fixture::new();
    let mut clients: Vec<UnixStream> = (0..MOST_CONNECTIONS).map(|_| fixture.connect()).collect();
    for client in &mut clients {
        client
            .write_all(call(1, "echo", json!({})).as_bytes())
            .unwrap();
        assert_eq!(receive(client), result(1, json!({})));
    }
    let mut late = fixture.connect();
    late.write_all(call(9, "echo", json!({})).as_bytes())
        .unwrap();
    late.set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    assert!(late.read(&mut [0]).is_err(), "there is no place yet");
    clients.pop();
    late.set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    assert_eq!(receive(&mut late), result(9, json!({})));
}

#[test]
fn stopping_delivers_what_was_asked_and_removes_the_socket() {
    let mut fixture = Fixture::new();
    let mut stream = fixture.connect();
    stream
        .write_all(call(1, "slow", json!({})).as_bytes())
        .unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let server = fixture.server.take().unwrap();
    let stopping = std::thread::spawn(move || server.stop());
    std::thread::sleep(Duration::from_millis(50));
    fixture.open_gate();
    assert_eq!(receive(&mut stream), result(1, json!("slow")));
    stopping.join().unwrap();
    assert!(!fixture.path().exists());
}

#[test]
fn stopping_does_not_wait_for_ever() {
    let mut fixture = Fixture::new();
    let mut stream = fixture.connect();
    stream
        .write_all(call(1, "slow", json!({})).as_bytes())
        .unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let begun = Instant::now();
    fixture.server.take().unwrap().stop();
    assert!(begun.elapsed() < Duration::from_secs(15));
    assert!(!fixture.path().exists());
}
