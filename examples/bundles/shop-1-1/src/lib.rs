//! The example shop 1.1.0: good.

use holdfast_bundle_shop::Version;

holdfast_bundle_shop::serve!(Version {
    name: "1.1.0",
    fails_one_in: 0,
    healthy: true
});
