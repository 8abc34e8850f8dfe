//! Calls one method of a target: `rpc_call SOCKET METHOD PARAMS` prints the result, or the error and fails.

use std::path::Path;
use std::process::ExitCode;

use vdo_rpc::client::RpcClient;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, method, params] = arguments.as_slice() else {
        eprintln!("usage: rpc_call SOCKET METHOD PARAMS");
        return ExitCode::from(2);
    };
    let called = RpcClient::connect(Path::new(socket))
        .map_err(|error| error.to_string())
        .and_then(|mut client| {
            let params = serde_json::from_str(params).map_err(|error| error.to_string())?;
            let result = client.call(method, &params);
            result.map_err(|error| error.to_string())
        });
    match called {
        Ok(result) => {
            println!("{result}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}
