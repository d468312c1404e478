//! The example shop 1.2.0: fails one request in five.

use holdfast_bundle_shop::Version;

holdfast_bundle_shop::serve!(Version {
    name: "1.2.0",
    fails_one_in: 5,
    healthy: true
});
