#pragma once

#if __cplusplus < 202002L
#error "taskmux needs C++20: -std=c++20"
#endif

/// Marks a type whose identity must survive `-fvisibility=hidden` and shared objects: what is
/// thrown, and what is derived from.
#if defined(__GNUC__)
#define TASKMUX_API __attribute__((visibility("default")))
#else
#define TASKMUX_API
#endif

/// Stands before the body of a public function that is not a template. Bodies lie in `detail/api/`
/// and `detail/memory/broker.hpp`. A program that links taskmux::compiled has TASKMUX_COMPILED
/// defined: then the public headers leave the bodies out, and src/taskmux.cpp, which is that
/// library, holds them once. Otherwise every file that includes a header compiles what it uses. It
/// only says where a body stands: no class has another layout, so files of both kinds may be linked
/// together.
#ifdef TASKMUX_COMPILED
#define TASKMUX_INLINE
#else
#define TASKMUX_INLINE inline
#endif
