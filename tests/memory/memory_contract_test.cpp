#include "memory_fixture.hpp"

#define TASKMUX_BROKER_FIXTURES MemoryFixture
#include "broker_contract.hpp"
