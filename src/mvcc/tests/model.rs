//! Random histories, answered by the store and by a list of all that ever happened.
