"""Networks beside a U-Net that show it a picture: ControlNets and T2I-Adapters."""
