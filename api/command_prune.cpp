#include <cstdio>

#include "api/commands.hpp"
#include "api/layer_search.hpp"
#include "api/serving.hpp"
#include "model/remake.hpp"

namespace troupe::api {
namespace {

std::string text_of(const std::vector<std::uint32_t>& layers) {
  std::string text;
  for (std::size_t i = 0; i < layers.size();) {
    std::size_t last = i;
    while (last + 1 < layers.size() && layers[last + 1] == layers[last] + 1) ++last;
    if (!text.empty()) text += ',';
    text += std::to_string(layers[i]);
    if (last > i) text += '-' + std::to_string(layers[last]);
    i = last + 1;
  }
  return text;
}

}  // namespace

int run_command(const prune_config& c) {
  if (c.layers.empty() && c.keep == 0)
    return complain({ec::invalid_argument, "say which layers stay: --layers 0-9,28 or --keep 10"},
                    exit_configuration);
  if (auto ok = start_logging({"error", "text", ""}); !ok)
    return complain(ok.error(), exit_configuration);
  auto loaded = model::open_model(c.in);
  if (!loaded) return complain(loaded.error(), exit_model);
  auto layers = c.layers.empty()
                    ? search_layers(*loaded, c.keep,
                                    [](std::uint32_t left, double agreement) {
                                      std::fprintf(stderr, "%u layers: agrees in %.1f %%\n", left,
                                                   agreement * 100);
                                    })
                    : model::parse_layers(c.layers, (*loaded)->config.num_hidden_layers);
  if (!layers)
    return complain(layers.error(),
                    layers.error().code == ec::invalid_argument ? exit_configuration : exit_device);
  auto made = model::prune_model(c.in, c.out, *layers);
  if (!made) return complain(made.error(), exit_model);
  std::printf("%s: %.1f MB of %.1f MB, layers %s\n", c.out.c_str(),
              static_cast<double>(made->bytes_after) / 1e6,
              static_cast<double>(made->bytes_before) / 1e6, text_of(*layers).c_str());
  return exit_clean;
}

}  // namespace troupe::api
