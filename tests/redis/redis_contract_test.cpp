#include "redis_fixture.hpp"

#define TASKMUX_BROKER_FIXTURES RedisFixture
#include "broker_contract.hpp"
