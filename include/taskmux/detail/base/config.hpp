#pragma once

#if __cplusplus < 202002L
#error "taskmux needs C++20: -std=c++20"
#endif

/// Marks a type whose identity must survive `-fvisibility=hidden` across shared objects: types that
/// are thrown, and classes that are derived from.
#if defined(__GNUC__)
#define TASKMUX_API __attribute__((visibility("default")))
#else
#define TASKMUX_API
#endif

/// Precedes the body of a public function that is not a template. Bodies lie in `detail/api/` and
/// `detail/memory/broker.hpp`. A program that links taskmux::compiled is compiled with
/// TASKMUX_COMPILED: then the public headers omit the bodies, and the library's src/taskmux.cpp
/// contains them once. Otherwise every file that includes a header compiles the bodies that it
/// uses. The macro affects only where a body is compiled, never the layout of a class, so files of
/// both kinds can be linked together.
#ifdef TASKMUX_COMPILED
#define TASKMUX_INLINE
#else
#define TASKMUX_INLINE inline
#endif
