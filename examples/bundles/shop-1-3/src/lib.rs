//! The example shop 1.3.0: never becomes healthy.

use holdfast_bundle_shop::Version;

holdfast_bundle_shop::serve!(Version {
    name: "1.3.0",
    fails_one_in: 0,
    healthy: false
});
