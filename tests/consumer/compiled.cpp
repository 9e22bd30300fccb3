#include "core.cpp"

// The program of core.cpp, with its bodies in the library: this file compiles none of them.
#ifndef TASKMUX_COMPILED
#error "taskmux::compiled does not say to its users that it is compiled"
#endif
