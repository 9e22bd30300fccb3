#pragma once

// The only definition of the version; CMake reads it from here.
#define TASKMUX_VERSION_MAJOR 0
#define TASKMUX_VERSION_MINOR 1
#define TASKMUX_VERSION_PATCH 0
#define TASKMUX_VERSION_STRING "0.1.0"
