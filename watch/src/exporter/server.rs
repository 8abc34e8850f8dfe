//! The exporter's HTTP: `GET /metrics`, for callers who may be slow, many, or no HTTP clients at all.
//!
//! One thread serves all callers; the target is asked on another, for one caller after the other. Every caller has a
//! limited time, and there is a limit to how many there are at once: further ones wait at the door.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};

use super::{exposition, scrape};
use crate::target::Target;

/// Callers that are served at once.
const CALLERS: usize = 32;

/// How long a caller may take to say what it wants.
const HEADERS_WITHIN: Duration = Duration::from_secs(5);

/// How long a caller may take to read its answer.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// Most bytes of a request, and most headers.
const REQUEST_LIMIT: usize = 16 << 10;
const HEADERS_LIMIT: usize = 64;

const HOME: &str = "<html><head><title>vdo_exporter</title></head>\
    <body><h1>vdo_exporter</h1><a href=\"/metrics\">Metrics</a></body></html>\n";

/// The target that callers ask for.
#[derive(Debug)]
pub struct Scraper {
    target: Arc<Mutex<Target>>,
    patience: Duration,
}

impl Scraper {
    /// Asks the target at `socket`, which may take as long as `patience`.
    pub fn new(socket: &Path, patience: Duration) -> Scraper {
        Scraper {
            target: Arc::new(Mutex::new(Target::new(socket))),
            patience,
        }
    }

    /// Everything the target says now; `None` if others have asked and it keeps them waiting.
    async fn scrape(&self) -> Option<String> {
        let target = Arc::clone(&self.target);
        let turn = tokio::time::timeout(self.patience, target.lock_owned());
        let mut target = turn.await.ok()?;
        let patience = self.patience;
        let ask = move || {
            let begun = Instant::now();
            let sample = target.sample(patience);
            if let Err(error) = &sample {
                log::warn!("{error}");
            }
            scrape::text(&sample, begun.elapsed())
        };
        tokio::task::spawn_blocking(ask).await.ok()
    }
}

/// Serves callers for ever.
pub async fn serve(listener: TcpListener, scraper: Scraper) -> Infallible {
    let scraper = Arc::new(scraper);
    let places = Arc::new(Semaphore::new(CALLERS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await;
        match listener.accept().await {
            Ok((caller, _)) => {
                let scraper = Arc::clone(&scraper);
                tokio::spawn(async move {
                    attend(caller, scraper).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of descriptors, perhaps: callers who leave give theirs back.
                log::warn!("cannot take a caller: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves one request of a caller.
async fn attend(caller: TcpStream, scraper: Arc<Scraper>) {
    let longest = HEADERS_WITHIN + 2 * scraper.patience + READ_WITHIN;
    let service = service_fn(move |request| {
        let scraper = Arc::clone(&scraper);
        async move { Ok::<_, Infallible>(answer(&request, &scraper).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_buf_size(REQUEST_LIMIT)
        .max_headers(HEADERS_LIMIT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(caller), service);
    match tokio::time::timeout(longest, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("a caller: {error}"),
        Err(_) => log::debug!("a caller took too long"),
    }
}

async fn answer(request: &Request<Incoming>, scraper: &Scraper) -> Response<Full<Bytes>> {
    match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => match scraper.scrape().await {
            Some(text) => response(StatusCode::OK, exposition::CONTENT_TYPE, text),
            None => plain(
                StatusCode::SERVICE_UNAVAILABLE,
                "the target keeps others waiting\n",
            ),
        },
        (&Method::GET | &Method::HEAD, "/") => {
            response(StatusCode::OK, "text/html; charset=utf-8", HOME)
        }
        (_, "/metrics" | "/") => {
            let mut refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is known here\n");
            let allowed = hyper::header::HeaderValue::from_static("GET, HEAD");
            refusal.headers_mut().insert(ALLOW, allowed);
            refusal
        }
        _ => plain(StatusCode::NOT_FOUND, "only /metrics is here\n"),
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", text)
}

fn response(
    status: StatusCode,
    content: &'static str,
    text: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let content = hyper::header::HeaderValue::from_static(content);
    response.headers_mut().insert(CONTENT_TYPE, content);
    response
}
