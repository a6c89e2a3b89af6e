// The product's queue of events in virtual time, under the simulator's names.
#pragma once

#include "actors/capacity/event_queue.hpp"

namespace troupe::simulation {

using actors::event_queue;
using time_point = event_queue::time_point;

}  // namespace troupe::simulation
