//! What tests share: a World that can die, a scripted mind, small repositories.
