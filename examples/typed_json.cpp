/// Payloads and results of your own types, as JSON: taskmux::json.

#include <chrono>
#include <iostream>
#include <string>
#include <taskmux/json.hpp>
#include <taskmux/taskmux.hpp>
#include <vector>

using namespace std::chrono_literals;

struct Thumbnail {
  std::string image;
  std::vector<int> widths;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Thumbnail, image, widths)

struct Made {
  std::size_t thumbnails;
};
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(Made, thumbnails)

int main() {
  taskmux::ServeMux mux;
  taskmux::handle_json<Thumbnail>(mux, "image:thumbnail",
                                  [](taskmux::Context& context, const Thumbnail& wanted) {
                                    taskmux::set_json_result(context, Made{wanted.widths.size()});
                                  });

  taskmux::MemoryBroker broker;
  taskmux::Server server{broker, std::move(mux)};
  server.start();

  taskmux::Client client{broker};
  taskmux::Inspector inspector{broker};
  const auto sent = taskmux::enqueue_json(client, "image:thumbnail",
                                          Thumbnail{.image = "cat.png", .widths = {64, 128, 256}},
                                          {.retention = 1h});
  const auto done = inspector.wait_for_result(sent.queue, sent.id, 10s);
  std::cout << taskmux::json_result<Made>(done)->thumbnails << " thumbnails\n";

  // A payload that does not fit the type becomes a dead letter at once: no retry would help.
  for (const char* payload :
       {R"({"image": "cat.png"})", R"({"image": "cat.png", "widths": [0.5]})"}) {
    const auto bad =
        client.enqueue({.type = "image:thumbnail", .payload = payload}, {.retention = 1h});
    try {
      inspector.wait_for_result(bad.queue, bad.id, 10s);
    } catch (const taskmux::Error& error) {
      std::cout << error.what() << '\n';
    }
  }
  server.shutdown();
}
