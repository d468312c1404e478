//! What the binary carries inside: the built-in plugins, and the demo's bundles. The build script makes them.

use holdfast_host::Metadata;
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Plugins by the name under which a target asks for them.
pub fn plugins() -> [(&'static str, &'static [u8]); 2] {
    [
        ("edge", include_bytes!(env!("HOLDFAST_GUEST_PLUGIN_EDGE"))),
        ("kubernetes", include_bytes!(env!("HOLDFAST_GUEST_PLUGIN_KUBERNETES"))),
    ]
}

/// The demo's bundles, by tag.
pub fn bundles() -> [(&'static str, &'static [u8]); 4] {
    [
        ("1.0.0", include_bytes!(env!("HOLDFAST_GUEST_SHOP_1_0"))),
        ("1.1.0", include_bytes!(env!("HOLDFAST_GUEST_SHOP_1_1"))),
        ("1.2.0", include_bytes!(env!("HOLDFAST_GUEST_SHOP_1_2"))),
        ("1.3.0", include_bytes!(env!("HOLDFAST_GUEST_SHOP_1_3"))),
    ]
}

/// Files that `plugin new` writes, by their path in the source tree.
pub const AUTHORS_FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/authors_files.rs"));

/// What a built-in plugin says of itself.
pub fn metadata(name: &str) -> Option<&'static Metadata> {
    static METADATA: OnceLock<BTreeMap<&str, Metadata>> = OnceLock::new();
    let all = METADATA.get_or_init(|| {
        let read = |(name, bytes)| Some((name, holdfast_host::inspect(bytes).ok()?.metadata?));
        plugins().into_iter().filter_map(read).collect()
    });
    all.get(name)
}
