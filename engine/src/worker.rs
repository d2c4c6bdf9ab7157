//! The only thread that touches the device.
