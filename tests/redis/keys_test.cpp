#include "redis/asynq/keys.hpp"

#include <chrono>
#include <string>
#include <string_view>

#include "redis/asynq/md5.hpp"
#include "support/test.hpp"

using namespace std::chrono_literals;
using namespace taskmux;
using redis::GlobalKeys;
using redis::Keys;
using redis::md5_hex;

namespace {

Time at(std::chrono::sys_seconds seconds, Duration rest = Duration{0}) { return seconds + rest; }

}  // namespace

TEST_CASE("MD5 gives the values of RFC 1321", "[redis][md5]") {
  CHECK(md5_hex("") == "d41d8cd98f00b204e9800998ecf8427e");
  CHECK(md5_hex("a") == "0cc175b9c0f1b6a831c399e269772661");
  CHECK(md5_hex("abc") == "900150983cd24fb0d6963f7d28e17f72");
  CHECK(md5_hex("message digest") == "f96b697d7cb7938d525a2f31aaf161d0");
  CHECK(md5_hex("abcdefghijklmnopqrstuvwxyz") == "c3fcd3d76192e4007dfb496cca67e13b");
  CHECK(md5_hex("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789") ==
        "d174ab98d277d9f5a5611c2c9f419d9f");
  CHECK(md5_hex("123456789012345678901234567890123456789012345678901234567890123456789012345678"
                "90") == "57edf4a22be3c955ac49da2e2107b67a");
}

TEST_CASE("MD5 pads lengths round the edge of a block", "[redis][md5]") {
  // From coreutils' md5sum.
  CHECK(md5_hex(std::string(55, 'x')) == "04364420e25c512fd958a70738aa8f72");
  CHECK(md5_hex(std::string(56, 'x')) == "668a72d5ba17f08e62dabcafad6db14b");
  CHECK(md5_hex(std::string(63, 'x')) == "7dc2ca208106a2f703567bdff99d8981");
  CHECK(md5_hex(std::string(64, 'x')) == "c1bb4f81d892b2d57947682aeb252456");
  CHECK(md5_hex(std::string(65, 'x')) == "1bc932052302d074bdec39795fe00cf6");
  CHECK(md5_hex(std::string(100'000, '\xff')) == "e6083d97d43621163e0f9673bff51596");
}

TEST_CASE("the keys of a queue carry its name as hash tag", "[redis][keys]") {
  const Keys keys{"low"};
  CHECK(keys.stem() == "asynq:{low}:");
  CHECK(keys.pending() == "asynq:{low}:pending");
  CHECK(keys.active() == "asynq:{low}:active");
  CHECK(keys.lease() == "asynq:{low}:lease");
  CHECK(keys.scheduled() == "asynq:{low}:scheduled");
  CHECK(keys.retry() == "asynq:{low}:retry");
  CHECK(keys.archived() == "asynq:{low}:archived");
  CHECK(keys.completed() == "asynq:{low}:completed");
  CHECK(keys.task("r-1") == "asynq:{low}:t:r-1");
  CHECK(keys.task_prefix() == "asynq:{low}:t:");
  CHECK(keys.paused() == "asynq:{low}:paused");
  CHECK(keys.processed() == "asynq:{low}:processed");
  CHECK(keys.failed() == "asynq:{low}:failed");
  CHECK(keys.groups() == "asynq:{low}:groups");
  CHECK(keys.group("tenant-9") == "asynq:{low}:g:tenant-9");
  CHECK(keys.group_prefix() == "asynq:{low}:g:");
  CHECK(keys.aggregation_set("tenant-9", "s1") == "asynq:{low}:g:tenant-9:s1");
  CHECK(keys.aggregation_sets() == "asynq:{low}:aggregation_sets");
  CHECK(keys.due() == "asynq:{low}:tmx:due");
  CHECK(keys.ids() == "asynq:{low}:tmx:ids");
}

TEST_CASE("each state has its own container", "[redis][keys]") {
  const Keys keys{"default"};
  CHECK(keys.container(TaskState::pending) == keys.pending());
  CHECK(keys.container(TaskState::active) == keys.active());
  CHECK(keys.container(TaskState::scheduled) == keys.scheduled());
  CHECK(keys.container(TaskState::retry) == keys.retry());
  CHECK(keys.container(TaskState::archived) == keys.archived());
  CHECK(keys.container(TaskState::completed) == keys.completed());
}

TEST_CASE("a unique lock distinguishes no payload from an empty one", "[redis][keys]") {
  const Keys keys{"default"};
  CHECK(keys.unique("email:welcome", std::nullopt) == "asynq:{default}:unique:email:welcome:");
  CHECK(keys.unique("email:welcome", "") ==
        "asynq:{default}:unique:email:welcome:d41d8cd98f00b204e9800998ecf8427e");
  CHECK(keys.unique("email:welcome", R"({"user_id":42})") ==
        "asynq:{default}:unique:email:welcome:1181f89307fa271072c095747d5813cc");
  CHECK(Keys{"critical"}.unique("image:resize", std::string_view{"\0\xff\x10\x80", 4}) ==
        "asynq:{critical}:unique:image:resize:738b5ac8f660204a368291e9c4e1e9de");
}

TEST_CASE("the counters of a day change at midnight UTC", "[redis][keys]") {
  using namespace std::chrono;
  const Keys keys{"default"};
  const sys_days day = 2026y / January / 2d;
  CHECK(keys.processed_on(at(day)) == "asynq:{default}:processed:2026-01-02");
  CHECK(keys.failed_on(at(day, 24h - 1us)) == "asynq:{default}:failed:2026-01-02");
  CHECK(keys.failed_on(at(day, -1us)) == "asynq:{default}:failed:2026-01-01");
  CHECK(keys.processed_on(at(sys_days{2024y / February / 29d})) ==
        "asynq:{default}:processed:2024-02-29");
  CHECK(keys.processed_on(at(sys_days{2025y / December / 31d})) ==
        "asynq:{default}:processed:2025-12-31");
  CHECK(keys.processed_on(Time{}) == "asynq:{default}:processed:1970-01-01");
  CHECK(keys.processed_on(Time{-1us}) == "asynq:{default}:processed:1969-12-31");
  CHECK(redis::day_counter_lifetime == 7'776'000s);
}

TEST_CASE("global keys name servers by host, pid and id", "[redis][keys]") {
  const GlobalKeys keys;
  CHECK(keys.queues() == "asynq:queues");
  CHECK(keys.servers() == "asynq:servers");
  CHECK(keys.server("web-1", 4242, "7d444840") == "asynq:servers:{web-1:4242:7d444840}");
  CHECK(keys.workers() == "asynq:workers");
  CHECK(keys.worker("web-1", 4242, "7d444840") == "asynq:workers:{web-1:4242:7d444840}");
  CHECK(keys.schedulers() == "asynq:schedulers");
  CHECK(keys.scheduler("web-1", 1, "u") == "asynq:schedulers:{web-1:1:u}");
  CHECK(keys.scheduler_history("e") == "asynq:scheduler_history:e");
  CHECK(keys.cancel() == "asynq:cancel");
  CHECK(keys.bound_cancel() == "asynq:tmx:cancel");
  CHECK(keys.semaphore("api") == "asynq:sema:api");
}

TEST_CASE("a prefix replaces asynq in every name", "[redis][keys]") {
  CHECK(Keys("low", "test7").pending() == "test7:{low}:pending");
  CHECK(Keys("low", "test7").unique("t", std::nullopt) == "test7:{low}:unique:t:");
  CHECK(GlobalKeys{"test7"}.queues() == "test7:queues");
  CHECK(GlobalKeys{"test7"}.cancel() == "test7:cancel");
}
