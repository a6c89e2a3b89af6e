// Which layers of a model can go when it shall guess what the whole model says: one after the other, the one is left out
// without which the rest gives the whole model's own words the highest probability. No training: the weights stay as they
// are. (Dropping layers: "ShortGPT", 2403.03853; drafts of a model's own layers: "Draft & Verify", 2309.08168.) One thread,
// and the host device's.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "base/result.hpp"
#include "model/model.hpp"

namespace troupe::api {

// `progress`: so many layers are left, and how often their most likely token is the whole model's.
result<std::vector<std::uint32_t>> search_layers(
    std::shared_ptr<const model::loaded_model> model, std::uint32_t keep,
    const std::function<void(std::uint32_t, double)>& progress);

}  // namespace troupe::api
