//! What the binary carries inside: the built-in plugins, and the demo's bundles. The build script makes them.

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
