//! The example shop: a `wasi:http` component that says its version. Its four bundles differ in one line each.

use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

pub use wasip2;

/// What one bundle does.
pub struct Version {
    pub name: &'static str,
    /// 0: never.
    pub fails_one_in: u64,
    pub healthy: bool,
}

impl Version {
    /// `/healthz` says whether it is healthy, anything else says which version this is.
    pub fn handle(&self, request: &IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        let path = path.split('?').next().unwrap_or_default();
        let (status, text) = match path {
            "/healthz" if self.healthy => (200, "ok\n".to_owned()),
            "/healthz" => {
                eprintln!("shop {}: the price list is missing, so I cannot sell anything", self.name);
                (503, "the price list is missing\n".to_owned())
            }
            // Every request is a fresh instance, so chance is the only memory it has.
            _ if self.fails_one_in > 0 && wasip2::random::random::get_random_u64().is_multiple_of(self.fails_one_in) => {
                eprintln!("shop {}: a price was not a number", self.name);
                (500, "a price was not a number\n".to_owned())
            }
            _ => (200, format!("shop {}\n", self.name)),
        };
        answer(out, status, &text);
    }
}

fn answer(out: ResponseOutparam, status: u16, text: &str) {
    let response = OutgoingResponse::new(Fields::new());
    // A fresh response takes any status, and its body can be had once: neither can fail here.
    let _ = response.set_status_code(status);
    let Ok(body) = response.body() else { return };
    ResponseOutparam::set(out, Ok(response));
    if let Ok(stream) = body.write() {
        let _ = stream.blocking_write_and_flush(text.as_bytes());
    }
    let _ = OutgoingBody::finish(body, None);
}

/// Exports a version as the bundle's handler.
#[macro_export]
macro_rules! serve {
    ($version:expr) => {
        struct Shop;

        impl $crate::wasip2::exports::http::incoming_handler::Guest for Shop {
            fn handle(request: $crate::wasip2::http::types::IncomingRequest, out: $crate::wasip2::http::types::ResponseOutparam) {
                $version.handle(&request, out);
            }
        }

        $crate::wasip2::http::proxy::export!(Shop);
    };
}
