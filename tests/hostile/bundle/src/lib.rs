//! A bundle that does whatever harm the path asks for: `/loop`, `/allocate/MIB`, `/sleep/MS`, `/panic`, `/status/CODE`; it
//! prints the method, path and body of every request first.

use std::time::Duration;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

struct Hostile;

impl wasip2::exports::http::incoming_handler::Guest for Hostile {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let body = body(&request);
        eprintln!("{:?} {path} {body}", request.method());
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let number = parts.get(1).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let mut status = 200;
        match parts.first().copied() {
            Some("loop") => {
                let mut spent = 0u64;
                loop {
                    spent = std::hint::black_box(spent.wrapping_add(1));
                }
            }
            Some("allocate") => {
                let held: Vec<Vec<u8>> = (0..number).map(|_| std::hint::black_box(vec![1; 1 << 20])).collect();
                eprintln!("holds {} MiB", held.len());
            }
            Some("sleep") => std::thread::sleep(Duration::from_millis(number)),
            Some("panic") => panic!("the bundle panicked on purpose"),
            Some("status") => status = number as u16,
            _ => {}
        }
        answer(out, status, &format!("{path} done, {body}\n"));
    }
}

fn body(request: &IncomingRequest) -> String {
    let Ok(incoming) = request.consume() else {
        return String::new();
    };
    let Ok(stream) = incoming.stream() else { return String::new() };
    let mut bytes = Vec::new();
    while let Ok(more) = stream.blocking_read(64 << 10) {
        bytes.extend(more);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn answer(out: ResponseOutparam, status: u16, text: &str) {
    let response = OutgoingResponse::new(Fields::new());
    let _ = response.set_status_code(status);
    let Ok(body) = response.body() else { return };
    ResponseOutparam::set(out, Ok(response));
    if let Ok(stream) = body.write() {
        let _ = stream.blocking_write_and_flush(text.as_bytes());
    }
    let _ = OutgoingBody::finish(body, None);
}

wasip2::http::proxy::export!(Hostile);
