#include <exception>
#include <iostream>
#include <optional>
#include <span>

#include "options.hpp"
#include "report.hpp"
#include "scenarios.hpp"

int main(int argc, char** argv) {
  namespace bench = taskmux::bench;
  try {
    const auto arguments = std::span<const char* const>{argv, static_cast<std::size_t>(argc)};
    const std::optional<bench::Options> options = bench::parse_options(arguments.subspan(1));
    if (!options) {
      std::cout << bench::usage;
      return 0;
    }
    const bench::Report report = bench::run(*options);
    std::cout << (options->json ? bench::as_json(*options, report)
                                : bench::as_text(*options, report))
              << '\n';
    return std::cout.flush() ? 0 : 1;
  } catch (const bench::UsageError& e) {
    std::cerr << "taskmux_bench: " << e.what() << "\n(--help tells the options)\n";
    return 2;
  } catch (const std::exception& e) {
    std::cerr << "taskmux_bench: " << e.what() << '\n';
    return 1;
  }
}
