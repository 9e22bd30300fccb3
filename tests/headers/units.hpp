#pragma once

#include "taskmux/broker.hpp"

/// Defined in the second unit.
void enqueue_in_second_unit(taskmux::Broker& broker);
