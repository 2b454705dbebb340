//! What tests, benches and fuzz targets share; behind the feature `testkit`, never in a release binary.
