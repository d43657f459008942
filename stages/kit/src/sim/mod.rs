//! A seeded simulated broker.
