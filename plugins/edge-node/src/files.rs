//! A directory of static files from one tar+gzip layer. Kept in memory, unpacked under caps: the archive is untrusted.

use bytes::Bytes;
use flate2::read::GzDecoder;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Component, Path};

const FILES_MAX: usize = 5_000;
const UNPACKED_MAX_BYTES: u64 = 128 << 20;

#[derive(Debug)]
pub struct Files(BTreeMap<String, Bytes>);

impl Files {
    pub fn unpack(tar_gzip: &[u8]) -> Result<Self, String> {
        let mut files = BTreeMap::new();
        let mut left = UNPACKED_MAX_BYTES;
        let mut archive = tar::Archive::new(GzDecoder::new(tar_gzip).take(UNPACKED_MAX_BYTES + (FILES_MAX as u64) * 1024));
        for entry in archive.entries().map_err(|error| error.to_string())? {
            let entry = entry.map_err(|error| format!("the archive is damaged: {error}"))?;
            let path = entry.path().map_err(|error| error.to_string())?.into_owned();
            let kind = entry.header().entry_type();
            if kind.is_dir() || matches!(kind, tar::EntryType::XGlobalHeader) {
                continue;
            }
            let name = plain_name(&path).ok_or_else(|| format!("{} leads out of the bundle", path.display()))?;
            if !kind.is_file() {
                return Err(format!(
                    "{name} is neither a file nor a directory; links are not allowed in a bundle"
                ));
            }
            if files.len() >= FILES_MAX {
                return Err(format!("the bundle has more than {FILES_MAX} files"));
            }
            let mut bytes = Vec::new();
            entry
                .take(left + 1)
                .read_to_end(&mut bytes)
                .map_err(|error| format!("{name}: {error}"))?;
            left = left
                .checked_sub(bytes.len() as u64)
                .ok_or_else(|| format!("the bundle unpacks to more than {UNPACKED_MAX_BYTES} bytes"))?;
            files.insert(name, Bytes::from(bytes));
        }
        if files.is_empty() {
            return Err("the bundle holds no files".into());
        }
        Ok(Self(files))
    }

    pub fn handle(&self, request: &Request<Bytes>) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        }
        let path = request.uri().path().trim_start_matches('/');
        let index = format!("{}/index.html", path.trim_end_matches('/'));
        let found = [path, index.trim_start_matches('/')]
            .into_iter()
            .find_map(|name| Some((name, self.0.get(name)?)));
        let Some((name, bytes)) = found else {
            return plain(StatusCode::NOT_FOUND, "not found\n");
        };
        let body = if request.method() == Method::HEAD {
            Bytes::new()
        } else {
            bytes.clone()
        };
        let mut response = Response::new(Full::new(body));
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(content_type(name)));
        response
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    response
}

/// `a/b` for `./a/b`; none for anything that is absolute or climbs.
fn plain_name(path: &Path) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(part) => parts.push(part.to_str()?),
            _ => return None,
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("json") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("txt") => "text/plain; charset=utf-8",
        Some("wasm") => "application/wasm",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};

    fn archive(build: impl FnOnce(&mut tar::Builder<GzEncoder<Vec<u8>>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        build(&mut builder);
        builder.into_inner().unwrap().finish().unwrap()
    }

    fn file(builder: &mut tar::Builder<GzEncoder<Vec<u8>>>, name: &str, bytes: &[u8]) {
        let mut header = tar::Header::new_ustar();
        header.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append(&header, bytes).unwrap();
    }

    #[test]
    fn serves_what_is_there() {
        let files = Files::unpack(&archive(|b| {
            file(b, "./index.html", b"home");
            file(b, "a/b.txt", b"text");
        }))
        .unwrap();
        for (path, status) in [
            ("/", 200),
            ("/index.html", 200),
            ("/a/b.txt", 200),
            ("/a", 404),
            ("/../index.html", 404),
            ("/none", 404),
        ] {
            let request = Request::get(path).body(Bytes::new()).unwrap();
            assert_eq!(files.handle(&request).status().as_u16(), status, "{path}");
        }
    }

    #[test]
    fn refuses_hostile_archives() {
        for (name, part) in [
            ("../evil", "leads out"),
            ("/etc/passwd", "leads out"),
            ("a/../../b", "leads out"),
        ] {
            let error = Files::unpack(&archive(|b| file(b, name, b"x"))).unwrap_err();
            assert!(error.contains(part), "{name}: {error}");
        }
        let link = archive(|b| {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            b.append_link(&mut header, "link", "/etc/passwd").unwrap();
        });
        assert!(Files::unpack(&link).unwrap_err().contains("links"));
        assert!(Files::unpack(b"not gzip").is_err());
        assert!(Files::unpack(&archive(|_| {})).unwrap_err().contains("no files"));
        let bomb = archive(|b| file(b, "zeros", &vec![0; (UNPACKED_MAX_BYTES + 1) as usize]));
        assert!(Files::unpack(&bomb).unwrap_err().contains("more than"));
    }
}
