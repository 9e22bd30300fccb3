#pragma once

// Catch2, whether it is version 2 or 3.
#if defined(TASKMUX_TEST_CATCH2_V3)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif
