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
